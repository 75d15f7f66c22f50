"""What kills and failing disks leave of a store."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr.storage._local as local_storage

from napari_wsi_xai.errors import StoreError, StoreMismatchError
from napari_wsi_xai.models import EncoderSpec, Model, build_model
from napari_wsi_xai.runs import Block, BlockResult, ResultStore, open_run, score

FAST = {"engine": "torch", "precision": "float32", "block_tiles": 16}
SPEC = EncoderSpec("small", "small-8-16-24", weights=None, seed=3)
UNFINISHED = ".0123456789abcdef0123456789abcdef.partial"


def plain() -> Model:
    return build_model(SPEC, "abmil", tile_px=64, mpp=2.0, seed=1)


def zooming() -> Model:
    sizes = {"k_sample": 2, "hidden": 8, "out_features": 12}
    return build_model(SPEC, "zoommil", tile_px=64, mpp=(4.0, 2.0), seed=1, **sizes)


class Recorder:
    """Copies a folder before and after each file in it is written."""

    def __init__(self, folder: Path, copies: Path) -> None:
        self.folder, self.copies = folder, copies
        self.states: list[Path] = []
        self._write = local_storage._put
        self._lock = threading.Lock()

    def __call__(self, path: Path, value, exclusive: bool = False) -> int:
        with self._lock:  # as if one file was written after the other
            path.parent.mkdir(parents=True, exist_ok=True)
            half = path.with_suffix(UNFINISHED)
            half.write_bytes(bytes(value.as_buffer_like())[:10])
            self._copy(f"while {path.parent.name} {path.name}")
            half.unlink()
            written = self._write(path, value, exclusive)
            self._copy(f"after {path.parent.name} {path.name}")
        return written

    def _copy(self, name: str) -> None:
        self.states.append(self.copies / f"{len(self.states)} {name}.wsixai.zarr")
        shutil.copytree(self.folder, self.states[-1])


def files_of(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.parametrize(("model", "every"), [(plain, 1), (zooming, 3)])
def test_killed_at_any_write_it_goes_on_to_the_same_files(
    tmp_path, textured_slide, monkeypatch, model, every
):
    head = model()
    out = tmp_path / "a.wsixai.zarr"
    recorder = Recorder(out, tmp_path / "states")
    with monkeypatch.context() as patch:
        patch.setattr(local_storage, "_put", recorder)
        finished = score(textured_slide, head, out, **FAST).compute()
    assert len(recorder.states) > 40
    expected = files_of(out)
    for state in recorder.states[::every]:
        run = score(textured_slide, head, state, **FAST)
        assert open_run(state).done == run.done
        if run.result is not None and run.result["complete"]:  # nobody would go on with it
            assert open_run(state).result == finished.result
            assert files_of(state) == expected, state.name
        run.compute()
        assert run.result == finished.result
        assert files_of(state) == expected, state.name


def test_failures_of_a_killed_session_are_not_told_once_the_block_went_well(tmp_path):
    selected = np.ones((3, 3), dtype=bool)
    identity = {"block_tiles": 3, "feature_dtype": "float32"}
    store = ResultStore.create_or_resume(tmp_path / "a.wsixai.zarr", identity, {}, selected, 4)
    store.group.require_group("failures/0.0").attrs["tiles"] = {"0,0": "the network was away"}
    features = np.zeros((3, 3, 4), dtype=np.float32)
    store.write_block(BlockResult(Block(0, 0), features, {}, 9, 0, 0))
    assert store.blocks_done() == {Block(0, 0)}
    assert store.failures() == {}
    assert "0.0" not in store.group["failures"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, textured_slide) -> Path:
    """A store of two magnifications."""
    out = tmp_path_factory.mktemp("damaged") / "a.wsixai.zarr"
    score(textured_slide, zooming(), out, **FAST).compute()
    return out


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy.wsixai.zarr"))


@pytest.mark.parametrize("content", [b"", b"half of it", None])
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("what", ["features", "maps/attention", "tissue/zarr.json", "zarr.json"])
def test_damage_is_told_in_a_sentence_that_names_the_place(
    finished, copied, textured_slide, what, level, content
):
    place = copied / "magnifications" / str(level)
    target = place / what
    if target.is_dir():  # any chunk in it
        target = next(path for path in sorted(target.rglob("c/**/0")) if path.is_file())
    if content is None:
        target.unlink()
    else:
        target.write_bytes(content)
    if content is None and what in ("features", "maps/attention"):  # not there is not done
        run = score(textured_slide, zooming(), copied, **FAST).compute()
        assert run.complete
        assert files_of(copied) == files_of(finished)
        return
    with pytest.raises(StoreError, match=rf"magnifications.{level}.*damaged") as caught:
        score(textured_slide, zooming(), copied, **FAST).compute()
    assert "\n" not in str(caught.value)


def test_what_was_opened_is_never_taken_from_damage(copied, textured_slide):
    """Without its chunk the selection reads as empty: other tiles than those read before."""
    shutil.rmtree(copied / "magnifications" / "1" / "tissue" / "c")
    with pytest.raises(StoreMismatchError, match=r"magnifications.1 .*selection of tissue"):
        score(textured_slide, zooming(), copied, **FAST)


def test_magnifications_that_changed_places_are_told(copied, textured_slide):
    inner = copied / "magnifications"
    (inner / "0").rename(inner / "x")
    (inner / "1").rename(inner / "0")
    (inner / "x").rename(inner / "1")
    with pytest.raises(StoreMismatchError, match="another tile grid"):
        score(textured_slide, zooming(), copied, **FAST)


def test_a_tissue_that_was_lost_is_told(tmp_path, textured_slide):
    out = tmp_path / "a.wsixai.zarr"
    score(textured_slide, plain(), out, **FAST).compute()
    shutil.rmtree(out / "tissue" / "c")
    with pytest.raises(StoreError, match="damaged"):
        score(textured_slide, plain(), out, **FAST)

"""The store with an epoch axis: what is in it, and that an entry is whole or not there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_wsi_xai.errors import StoreError, StoreMismatchError
from napari_wsi_xai.runs import ResultStore, open_run
from napari_wsi_xai.tiles import TileGrid
from napari_wsi_xai.training.epoch_store import EpochMap, EpochStore, StoredSlide
from napari_wsi_xai.training.figures import EpochFigures, SlideFigures

COARSE = TileGrid((2, 3), 64, 2.0, 64, (8, 16), (0.25, 0.25), 0, 1.0, 0.5)
FINE = TileGrid((8, 12), 64, 0.5, 64, (8, 16), (0.25, 0.25), 0, 1.0, 0.5)
SLIDES = (
    StoredSlide("a/b ä", 1, (FINE,), "/slides/a.svs"),
    StoredSlide("..", 0, (COARSE, FINE), None, in_micrometres=False),
)
IDENTITY = {"classes": ["normal", "tumor"], "head": "abmil", "every": "epoch"}


def make_maps(number: int) -> dict[str, dict[str, EpochMap]]:
    rng = np.random.default_rng(number)
    fine = rng.random(FINE.shape, np.float32)
    fine[0] = np.nan
    coarse = EpochMap(rng.random(COARSE.shape, np.float32), 0)
    return {
        "a/b ä": {"attention/all": EpochMap(fine), "tile-scores/tumor/x": EpochMap(-fine)},
        "..": {"attention/2 µm/px": coarse, "attention/0.5 µm/px": EpochMap(fine, 1)},
    }


def make_thumbnails(number: int) -> dict[str, np.ndarray]:
    """Of the first slide alone."""
    shown = np.random.default_rng(number).integers(0, 255, (5, 8, 8, 3)).astype(np.uint8)
    shown[3:] = 255
    return {"a/b ä": shown}


def make_entry(number: int) -> EpochFigures:
    figures = SlideFigures(0.5, 0.25 * number, math.nan, 0.1, 0.0, 0.75, ((1, 2), (3, number)))
    slides = {"a/b ä": figures, "..": SlideFigures(entropy=number / 10)}
    return EpochFigures(number + 1, 7 * (number + 1), {"val_auc": 0.5 + number / 100}, slides)


def make_store(path: Path, entries: int = 3) -> EpochStore:
    store = EpochStore.create_or_resume(path, SLIDES, IDENTITY)
    for number in range(len(store), entries):
        store.append(make_entry(number), make_maps(number), make_thumbnails(number))
    return store


def check(store: EpochStore, entries: int) -> None:
    """The store holds exactly the first entries."""
    assert len(store) == entries
    history = store.history()
    assert repr(history) == repr([make_entry(number) for number in range(entries)])
    for slide in SLIDES if entries else ():
        maps = store.maps(slide.name)
        for key, found in maps.items():
            expected = [make_maps(number)[slide.name][key] for number in range(entries)]
            np.testing.assert_array_equal(found.values, [one.values for one in expected])
            assert found.level == expected[0].level
            np.testing.assert_array_equal(
                store.last_maps(slide.name)[key], make_maps(entries - 1)[slide.name][key].values
            )
        assert maps.keys() == make_maps(0)[slide.name].keys()
    if entries:
        expected = [make_thumbnails(number)["a/b ä"] for number in range(entries)]
        np.testing.assert_array_equal(store.thumbnails("a/b ä"), expected)
        assert store.thumbnails("..") is None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "epochs.wsixai.zarr"
    make_store(path)
    store = EpochStore.open(path)
    check(store, 3)
    assert store.slides == SLIDES
    assert store.stopped_because is None


def test_an_empty_store_is_readable(tmp_path: Path) -> None:
    make_store(tmp_path / "e", 0)
    store = EpochStore.open(tmp_path / "e")
    assert store.history() == []
    assert store.maps("..") == store.last_maps("..") == {}


def test_maps_are_ome_zarr_with_an_axis_of_time_and_micrometres(tmp_path: Path) -> None:
    make_store(tmp_path / "e")
    place = tmp_path / "e" / "maps" / "a%2Fb %C3%A4" / "attention" / "all"
    ome = json.loads((place / "zarr.json").read_text())["attributes"]["ome"]
    (multiscale,) = ome["multiscales"]
    assert ome["version"] == "0.5"
    assert [axis["name"] for axis in multiscale["axes"]] == ["t", "y", "x"]
    assert [axis["type"] for axis in multiscale["axes"]] == ["time", "space", "space"]
    assert [axis.get("unit") for axis in multiscale["axes"]] == [None] + ["micrometer"] * 2
    scale, translation = multiscale["datasets"][0]["coordinateTransformations"]
    assert scale["scale"] == [1.0, 32.0, 32.0]
    transform = FINE.layer_transform()
    assert translation["translation"] == [0.0, *transform.translate]
    array = zarr.open_array(place / "0", mode="r")
    assert array.metadata.dimension_names == ("t", "y", "x")
    assert array.chunks == (1, *FINE.shape)


def test_ome_metadata_is_valid(tmp_path: Path) -> None:
    from ome_zarr_models.v05 import Image

    make_store(tmp_path / "e")
    for group in (tmp_path / "e" / "maps").rglob("0"):
        if (group / "zarr.json").is_file():
            image = Image.from_zarr(zarr.open_group(group.parent, mode="r"))
            assert len(image.ome_attributes.multiscales) == 1


def test_thumbnails_are_white_where_a_slide_was_not_there(tmp_path: Path) -> None:
    store = make_store(tmp_path / "e", 0)
    with_some = (1, 2, 4)
    for number in range(6):
        thumbnails = make_thumbnails(number) if number in with_some else {}
        store.append(make_entry(number), make_maps(number), thumbnails)
    found = EpochStore.open(tmp_path / "e").thumbnails("a/b ä")
    assert found is not None
    for number in range(6):
        white = np.full((5, 8, 8, 3), 255, np.uint8)
        expected = make_thumbnails(number)["a/b ä"] if number in with_some else white
        np.testing.assert_array_equal(found[number], expected)
    array = zarr.open_array(tmp_path / "e" / "thumbnails" / "a%2Fb %C3%A4", mode="r")
    assert array.metadata.dimension_names == ("t", "rank", "y", "x", "c")
    store.keep_until(21)  # the step of the third; of the fifth there were some
    for number in (3, 4):
        store.append(make_entry(number), make_maps(number))
    again = store.thumbnails("a/b ä")
    assert again is not None
    np.testing.assert_array_equal(again[:3], found[:3])
    assert (again[3:] == 255).all()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 3), st.integers(0, 70))
def test_a_kill_at_any_write_leaves_whole_entries(
    tmp_path_factory: pytest.TempPathFactory, before: int, writes: int
) -> None:
    path = tmp_path_factory.mktemp("killed") / "e"
    make_store(path, before)
    store = EpochStore.open(path, mode="r+")
    with pytest.MonkeyPatch.context() as patch:
        killed = _kill_after(patch, writes)
        try:
            store.append(make_entry(before), make_maps(before), make_thumbnails(before))
        except KilledError:
            assert killed
    done = len(EpochStore.open(path))
    assert done in (before, before + 1)
    check(EpochStore.open(path), done)
    make_store(path, before + 2)
    check(EpochStore.open(path), before + 2)


class KilledError(Exception):
    """The machine goes down."""


def _kill_after(patch: pytest.MonkeyPatch, writes: int) -> list[str]:
    """Let so many keys of the store be written, and no more."""
    from zarr.storage import LocalStore

    write, written, killed = LocalStore.set, [0], []

    async def set_key(self: Any, key: str, *args: Any, **kwargs: Any) -> None:
        if written[0] >= writes:
            killed.append(key)
            raise KilledError
        written[0] += 1
        await write(self, key, *args, **kwargs)

    patch.setattr(LocalStore, "set", set_key)
    return killed


@given(st.integers(0, 40))
@settings(max_examples=8, deadline=None)
def test_going_on_from_a_step_forgets_what_came_later(
    tmp_path_factory: pytest.TempPathFactory, step: int
) -> None:
    path = tmp_path_factory.mktemp("on") / "e"
    store = make_store(path, 4)
    store.update_attributes(stopped_because="a rule")
    store.keep_until(step)
    kept = min(step // 7, 4)
    check(EpochStore.open(path), kept)
    assert (EpochStore.open(path).stopped_because is None) == (kept < 4)
    make_store(path, 5)
    check(EpochStore.open(path), 5)


def test_another_watch_list_is_another_store(tmp_path: Path) -> None:
    make_store(tmp_path / "e", 1)
    with pytest.raises(StoreMismatchError, match=r"other watched slides.* there, not here"):
        EpochStore.create_or_resume(tmp_path / "e", SLIDES[:1], IDENTITY)
    with pytest.raises(StoreMismatchError, match=r"other classes.*\['a'\] here"):
        EpochStore.create_or_resume(tmp_path / "e", SLIDES, IDENTITY | {"classes": ["a"]})


def test_each_kind_of_store_names_the_other(tmp_path: Path) -> None:
    make_store(tmp_path / "e", 1)
    with pytest.raises(StoreError, match=r"'epochs', not 'tiles': open it with EpochStore\.open"):
        open_run(tmp_path / "e")
    selected = np.ones((1, 1), bool)
    identity = {"block_tiles": 1, "feature_dtype": "float32"}
    ResultStore.create_or_resume(tmp_path / "run", identity, {}, selected, 2)
    with pytest.raises(StoreError, match="'tiles', not 'epochs'"):
        EpochStore.open(tmp_path / "run")
    with pytest.raises(StoreError, match="there is no result store"):
        EpochStore.open(tmp_path / "nothing")

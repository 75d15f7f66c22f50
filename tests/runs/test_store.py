from __future__ import annotations

import errno

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.errors import StoreError
from napari_wsi_xai.geometry import LayerTransform
from napari_wsi_xai.runs import Block, BlockResult, ResultStore
from napari_wsi_xai.runs.store_group import writing

IDENTITY = {"slide": "s", "grid": {"tile_px": 64}, "block_tiles": 3, "feature_dtype": "float32"}


def make_store(path=None, shape=(5, 7), features=4):
    selected = np.ones(shape, dtype=bool)
    return ResultStore.create_or_resume(path, IDENTITY, {"slide": {}}, selected, features)


@given(seed=st.integers(0, 100), row=st.integers(0, 1), col=st.integers(0, 2))
def test_block_round_trip_also_at_the_edge(seed, row, col):
    store = make_store()
    shape = (3 if row == 0 else 2, 3 if col < 2 else 1, 4)
    features = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    features[0, 0] = np.nan
    block = Block(row, col)
    assert not store.has(block)
    store.write_block(BlockResult(block, features, {}, 3, 0, 0))
    assert store.has(block)
    assert store.blocks_done() == {block}
    np.testing.assert_array_equal(store.read_block(block), features)


def test_a_block_of_failures_only_is_complete_too(tmp_path):
    store = make_store(tmp_path / "a.wsixai.zarr")
    failures = {(0, 0): "bad JPEG", (0, 1): "bad JPEG"}
    nothing = np.full((3, 3, 4), np.nan, dtype=np.float32)
    store.write_block(BlockResult(Block(0, 0), nothing, failures, 2, 0, 0))
    again = ResultStore.open(tmp_path / "a.wsixai.zarr")
    assert again.blocks_done() == {Block(0, 0)}
    assert again.failures() == failures


def test_failures_without_their_chunk_do_not_count(tmp_path):
    """Killed between the two writes, a block is not complete and its failures not told."""
    store = make_store(tmp_path / "a.wsixai.zarr")
    store.group.require_group("failures/0.0").attrs["tiles"] = {"0,0": "bad"}
    assert store.failures() == {}


def test_a_half_written_chunk_does_not_count(tmp_path):
    path = tmp_path / "a.wsixai.zarr"
    store = make_store(path)
    folder = path / "features" / "c" / "0" / "1"
    folder.mkdir(parents=True)
    (folder / "0.123abc.partial").write_bytes(b"half")
    assert store.blocks_done() == set()
    assert not store.has(Block(0, 1))


def test_maps_are_ome_zarr_images(tmp_path):
    from ome_zarr_models.v05 import Image

    store = make_store(tmp_path / "a.wsixai.zarr")
    values = np.arange(35, dtype=np.float32).reshape(5, 7)
    values[0, 0] = np.nan
    transform = LayerTransform((112.0, 112.5), (56.0, 57.25))
    store.write_map("tile-scores/grade 3/4", values, transform, {"complete": True})
    np.testing.assert_array_equal(store.maps()["tile-scores/grade 3/4"], values)
    group = store.group["maps/tile-scores/grade 3%2F4"]
    image = Image.from_zarr(group)
    scales = image.ome_attributes.multiscales[0].datasets[0].coordinateTransformations
    assert tuple(scales[0].scale) == transform.scale
    assert tuple(scales[1].translation) == transform.translate
    assert [axis.unit for axis in image.ome_attributes.multiscales[0].axes] == ["micrometer"] * 2


def test_killed_before_it_was_begun(tmp_path):
    """Arrays without attributes are what a kill during creation leaves: made anew."""
    path = tmp_path / "a.wsixai.zarr"
    store = make_store(path)
    del store.group.attrs["napari_wsi_xai"]
    make_store(path)
    assert ResultStore.open(path).attributes["identity"] == IDENTITY


@pytest.mark.parametrize("what", ["file", "folder", "zarr", "missing", "newer"])
def test_what_is_no_result_store_is_told_and_left_alone(tmp_path, what):
    import zarr

    path = tmp_path / "a.wsixai.zarr"
    if what == "file":
        path.write_text("mine")
    elif what == "folder":
        path.mkdir()
        (path / "thesis.doc").write_text("mine")
    elif what == "zarr":
        zarr.open_group(path, mode="w").create_array("image", shape=(2,), dtype="u1")
    elif what == "newer":
        store = make_store(path)
        store.update_attributes(schema=99)
    with pytest.raises(StoreError, match=r"a\.wsixai\.zarr") as caught:
        ResultStore.open(path)
    assert "\n" not in str(caught.value)
    if what != "missing":
        with pytest.raises(StoreError):
            make_store(path)
    if what == "folder":
        assert (path / "thesis.doc").read_text() == "mine"


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "no space left"), (errno.EACCES, "no permission"), (errno.EIO, "cannot write")],
)
def test_errors_of_the_disk_are_told_in_a_sentence(tmp_path, code, words):
    with pytest.raises(StoreError, match=words), writing(tmp_path):
        raise OSError(code, "kernel words")


def test_nothing_is_rewritten_where_nothing_changes(tmp_path):
    path = tmp_path / "a.wsixai.zarr"
    store = make_store(path)
    store.update_attributes(result={"complete": False})
    before = (path / "zarr.json").stat().st_mtime_ns
    store.update_attributes(result={"complete": False})
    assert (path / "zarr.json").stat().st_mtime_ns == before

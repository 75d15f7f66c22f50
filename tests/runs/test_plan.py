from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.runs import RunPlan, encode_block, score
from napari_wsi_xai.tiles import TileGrid, read_tiles


@given(seed=st.integers(0, 1000), block=st.integers(1, 9), rows=st.integers(1, 30))
def test_blocks_partition_the_tissue(seed, block, rows):
    selected = np.random.default_rng(seed).random((rows, 23)) < 0.2
    grid = TileGrid(selected.shape, 64, 0.5, 64, (0, 0), (0.5, 0.5), 0, 1.0)
    plan = RunPlan("slide", None, None, grid, selected, block_tiles=block)
    tiles = [plan.tiles_of(b) for b in plan.blocks]
    assert all(len(t) > 0 for t in tiles)
    gathered = np.concatenate(tiles) if tiles else np.empty((0, 2), int)
    assert len(gathered) == selected.sum()
    assert set(map(tuple, gathered)) == set(map(tuple, np.argwhere(selected)))


def test_encode_block_equals_encoding_its_tiles(textured_slide, tiny_model):
    run = score(textured_slide, tiny_model, engine="torch", precision="float32", batch_size=7)
    plan = run.plan
    block = plan.blocks[1]
    result = encode_block(plan, block)
    index = plan.tiles_of(block)
    engine = tiny_model.encoder.prepare("float32", engine="torch", batch_size=7)
    tiles = read_tiles(run.slide, run.grid, index)
    expected = np.concatenate([engine.encode(tiles[i : i + 7]) for i in range(0, len(tiles), 7)])
    rows, cols = plan.window(block)
    row, col = (index - [rows.start, cols.start]).T
    np.testing.assert_array_equal(result.features[row, col], expected)
    empty = np.ones(result.features.shape[:2], dtype=bool)
    empty[row, col] = False
    assert np.isnan(result.features[empty]).all()
    assert result.tiles == len(index)


def test_a_pickled_plan_gives_the_same_bits(textured_slide, tiny_model):
    plan = score(textured_slide, tiny_model, engine="torch", precision="float32").plan
    carried = pickle.loads(pickle.dumps(plan))
    assert len(pickle.dumps(plan)) < 200_000
    block = plan.blocks[0]
    np.testing.assert_array_equal(
        encode_block(plan, block).features, encode_block(carried, block).features
    )


def test_unreadable_tiles_are_nan_with_their_reason(tmp_path, textured_slide, tiny_model):
    """A few compressed tiles of the file are overwritten: only what needs them fails."""
    import tifffile

    path = tmp_path / "scratched.ome.tif"
    path.write_bytes(textured_slide.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        across = -(-1500 // 256)
        scratched = 2 * across + 3  # rows 512..768, columns 768..1024 of level 0
        offset, size = page.dataoffsets[scratched], page.databytecounts[scratched]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * size)
    whole = score(textured_slide, tiny_model, engine="torch", precision="float32").compute()
    run = score(path, tiny_model, engine="torch", precision="float32", tissue=None).compute()
    assert run.complete
    assert run.failures
    for (row, col), reason in run.failures.items():
        y, x = run.grid.origins_level0([[row, col]])[0]
        assert 512 - 64 < y < 768
        assert 768 - 64 < x < 1024
        assert reason
    same = np.isfinite(run.maps["attention/all"])
    assert same.sum() == run.total - len(run.failures)
    assert run.result["tiles_used"] == run.total - len(run.failures)
    np.testing.assert_array_equal(
        run.maps["tile-scores/all"][same], whole.maps["tile-scores/all"][same]
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_descriptors_that_are_not_finite_are_failures(textured_slide, tiny_model, value):
    from napari_wsi_xai.runs.plan import encode_pixels, read_block

    run = score(textured_slide, tiny_model)
    plan = run.plan

    class Broken:
        def encode(self, tiles):
            result = np.ones((len(tiles), plan.encoder.dim), dtype=np.float32)
            result[0, 3] = value
            return result

    pixels = read_block(plan, run.slide, plan.blocks[0])
    result = encode_pixels(plan, Broken(), pixels)
    batches = -(-len(pixels.indices) // plan.batch_size)
    assert len(result.failures) == batches
    assert np.isfinite(result.features[..., 0]).sum() == len(pixels.indices) - batches

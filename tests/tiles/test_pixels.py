from __future__ import annotations

import numpy as np
import pytest
import zarr

from napari_wsi_xai.slides import open_slide
from napari_wsi_xai.tiles import read_tiles, tile_grid


def test_tiles_are_the_slides_pixels(textured_slide):
    with open_slide(textured_slide) as slide:
        grid = tile_grid(slide, tile_px=100, mpp=0.5)
        assert grid.shape == (12, 15)
        level0 = np.asarray(slide.levels[0][:])
        tiles = read_tiles(slide, grid, [[0, 0], [3, 4], [11, 14]])
        for tile, (row, col) in zip(tiles, [(0, 0), (3, 4), (11, 14)], strict=True):
            window = level0[row * 100 : row * 100 + 100, col * 100 : col * 100 + 100]
            np.testing.assert_array_equal(tile, window)


@pytest.mark.parametrize("mpp", [0.5, 0.6, 0.8, 1.0, 1.7])
def test_reading_together_equals_reading_one_by_one(textured_slide, mpp):
    with open_slide(textured_slide) as slide:
        grid = tile_grid(slide, tile_px=64, mpp=mpp)
        index = grid.indices()[:: max(1, grid.shape[0] // 2)][:40]
        together = read_tiles(slide, grid, index)
        alone = np.concatenate([read_tiles(slide, grid, one) for one in index])
        np.testing.assert_array_equal(together, alone)


def test_coarse_tiles_average_level_0(textured_slide):
    """At 1.5 um/px the 1.0 um level is read: 1.5 of its pixels make one, the mean stays."""
    with open_slide(textured_slide) as slide:
        grid = tile_grid(slide, tile_px=60, mpp=1.5)
        assert (grid.level, grid.downsample) == (1, 2.0)
        tile = read_tiles(slide, grid, [[2, 3]])[0]
        region = np.asarray(slide.levels[0][2 * 180 : 3 * 180, 3 * 180 : 4 * 180], dtype=float)
        mean = region.reshape(60, 3, 60, 3, 3).mean(axis=(1, 3))
        assert tile.mean(axis=(0, 1)) == pytest.approx(mean.mean(axis=(0, 1)), abs=0.3)
        assert np.corrcoef(tile.ravel(), mean.ravel())[0, 1] > 0.99


def test_no_tiles(textured_slide):
    with open_slide(textured_slide) as slide:
        grid = tile_grid(slide, tile_px=64)
        assert read_tiles(slide, grid, np.empty((0, 2), int)).shape == (0, 64, 64, 3)


def test_non_integer_level_of_a_real_slide(shared_data):
    path = shared_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    with open_slide(path, mpp=0.5) as slide:
        grid = tile_grid(slide, tile_px=112, mpp=1.0)
        assert grid.level == 1
        assert grid.downsample == pytest.approx(2.0005, abs=1e-3)
        fine = tile_grid(slide, tile_px=224, mpp=0.5)
        index = [[5, 6], [9, 12]]
        coarse = read_tiles(slide, grid, index).astype(float)
        source = read_tiles(slide, fine, index).astype(float)
        halved = source.reshape(2, 112, 2, 112, 2, 3).mean(axis=(2, 4))
        correlation = np.corrcoef(coarse.ravel(), halved.ravel())[0, 1]
        assert correlation > 0.97


def test_levels_are_zarr_arrays(textured_slide):
    with open_slide(textured_slide) as slide:
        assert all(isinstance(level, zarr.Array) for level in slide.levels)

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.errors import BadArgumentError, NoTissueError
from napari_wsi_xai.slides import open_slide
from napari_wsi_xai.tiles import (
    TileGrid,
    TissueMask,
    TissueOptions,
    tile_grid,
    tissue,
    tissue_mask,
    tissue_tiles,
)


def bare_grid(tile_px: int, shape: tuple[int, int], origin=(0, 0)) -> TileGrid:
    return TileGrid(shape, tile_px, 0.5, tile_px, origin, (0.5, 0.5), 0, 1.0)


@given(
    seed=st.integers(0, 10_000),
    pixel=st.floats(0.7, 9),
    tile_px=st.integers(8, 20),
    origin=st.tuples(st.integers(0, 6), st.integers(0, 6)),
)
def test_fraction_equals_the_integral_of_the_mask(seed, pixel, tile_px, origin):
    mask = np.random.default_rng(seed).random((9, 11)) < 0.5
    grid = bare_grid(tile_px, (2, 3), origin)
    shares = TissueMask(mask, (0.0, 0.0), (pixel, pixel)).fraction(grid)

    def overlap(low: float, size: int, count: int) -> np.ndarray:
        edges = np.arange(count + 1) * pixel
        return np.clip(np.minimum(edges[1:], low + size) - np.maximum(edges[:-1], low), 0, None)

    for share, (y, x) in zip(shares.ravel(), grid.origins_level0(), strict=True):
        area = overlap(y, tile_px, 9) @ mask @ overlap(x, tile_px, 11)
        assert share == pytest.approx(area / tile_px**2, abs=1e-5)


def test_disc_is_found(textured_slide):
    with open_slide(textured_slide) as slide:
        mask = tissue_mask(slide)
        found_um2 = mask.array.sum() * (mask.pixel_size_level0[0] * 0.5) ** 2
        assert found_um2 == pytest.approx(np.pi * 240**2, rel=0.12)
        grid = tile_grid(slide, tile_px=64)
        tissue = tissue_tiles(slide, grid, TissueOptions(min_fraction=0.5))
        centres = grid.origins_level0().reshape(*grid.shape, 2) + 32
        distance = np.hypot(*np.moveaxis(centres - [600, 700], 2, 0))
        assert tissue.selected[distance < 430].all()
        assert not tissue.selected[distance > 530].any()


def test_white_slide_has_no_tissue(tmp_path, write_slide):
    noise = np.random.default_rng(0).normal(245, 2, (900, 900, 3))
    path = write_slide(tmp_path / "white.ome.tif", noise.clip(0, 255).astype(np.uint8))
    with open_slide(path) as slide:
        grid = tile_grid(slide, tile_px=64)
        with pytest.raises(NoTissueError, match=r"0\.0% tissue"):
            tissue_tiles(slide, grid)
        everything = tissue_tiles(slide, grid, TissueOptions(method="none"))
        assert everything.selected.all()


@pytest.mark.parametrize("ink", [(30, 60, 200), (20, 140, 60), (15, 15, 15)])
def test_pen_and_black_borders_are_left_out(tmp_path, write_slide, ink):
    rgb = np.full((1600, 1600, 3), 243, dtype=np.uint8)
    rng = np.random.default_rng(0)
    stain = rng.normal([185, 110, 165], 15, (700, 700, 3)).clip(0, 255)
    rgb[100:800, 100:800] = stain.astype(np.uint8)
    rgb[1100:1400, 100:1500] = ink
    with open_slide(write_slide(tmp_path / "pen.ome.tif", rgb)) as slide:
        mask = tissue_mask(slide)
        height = mask.array.shape[0]
        assert mask.array[: height // 2].mean() > 0.25
        assert mask.array[int(height * 0.65) :].sum() == 0
        kept = tissue_mask(slide, TissueOptions(exclude_pen=False))
        # without exclusion coloured ink counts as tissue; pure black has no saturation
        assert (kept.array[int(height * 0.65) :].sum() > 0) == (ink != (15, 15, 15))


def test_real_slide(shared_data):
    with open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs") as slide:
        grid = tile_grid(slide)
        tissue = tissue_tiles(slide, grid)
        assert 0.3 < tissue.selected.mean() < 0.75
        again = tissue_tiles(slide, grid)
        assert again.digest == tissue.digest
        stricter = tissue_tiles(slide, grid, TissueOptions(min_fraction=0.9))
        assert (stricter.selected <= tissue.selected).all()
        assert stricter.digest != tissue.digest


def test_a_mask_replaces_detection(textured_slide):
    with open_slide(textured_slide) as slide:
        grid = tile_grid(slide, tile_px=100)
        array = np.zeros((12, 15), dtype=bool)
        array[2, 3] = array[5, 5] = True
        tissue = tissue_tiles(slide, grid, mask=TissueMask(array, (0.0, 0.0), (100.0, 100.0)))
        np.testing.assert_array_equal(tissue.selected, array)


@pytest.mark.parametrize(
    "options",
    [{"min_fraction": 1.5}, {"saturation": -1}, {"method": "magic"}, {"resolution_um": 0}],
)
def test_options_out_of_limits(options):
    with pytest.raises(BadArgumentError):
        TissueOptions(**options)


def test_the_coarse_picture_is_bounded(textured_slide, monkeypatch):
    """A slide too large for the wanted resolution gets a coarser one, and nearly the same mask."""
    with open_slide(textured_slide) as slide:
        fine = tissue_mask(slide)
        monkeypatch.setattr(tissue, "MAX_SIDE_PX", 50)
        coarse = tissue_mask(slide)
        assert max(coarse.array.shape) <= 50
        assert coarse.pixel_size_level0[0] > fine.pixel_size_level0[0]
        grid = tile_grid(slide, tile_px=64)
        assert np.abs(coarse.fraction(grid) - fine.fraction(grid)).mean() < 0.05

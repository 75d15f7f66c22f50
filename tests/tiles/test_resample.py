from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.tiles.resample import area_weights, resample_tiles


@given(target=st.integers(4, 64), extent=st.floats(2, 300))
def test_rows_are_averages_and_every_covered_pixel_counts_alike(target, extent):
    source = int(np.ceil(extent))
    weights = area_weights(source, extent, target)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    assert (weights >= 0).all()
    if extent >= target:  # area: column sums are the pixel's covered share of the extent
        covered = np.clip(extent - np.arange(source), 0, 1)
        np.testing.assert_allclose(weights.sum(axis=0), covered * target / extent, atol=1e-4)


def test_a_ramp_stays_a_ramp_at_fractional_ratio():
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
    extent = 199.5
    small = resample_tiles(ramp[None], (extent, extent), 57)[0]
    centres = (np.arange(57) + 0.5) * extent / 57 - 0.5
    assert np.abs(small[0, :, 1] - centres).max() <= 0.51
    assert (small == small[:1]).all()


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_whole_ratios_are_block_means(factor):
    rng = np.random.default_rng(factor)
    tiles = rng.integers(0, 256, (3, 16 * factor, 16 * factor, 3), dtype=np.uint8)
    blocks = tiles.reshape(3, 16, factor, 16, factor, 3).mean(axis=(2, 4))
    result = resample_tiles(tiles, (16.0 * factor, 16.0 * factor), 16)
    np.testing.assert_array_equal(result, np.floor(blocks + 0.5))


def test_general_and_whole_ratio_agree():
    rng = np.random.default_rng(1)
    tiles = rng.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    weights = area_weights(64, 64.0, 32)
    general = np.einsum("ty,yxc,ux->tuc", weights, tiles[0].astype(float), weights)
    whole = resample_tiles(tiles, (64.0, 64.0), 32)[0]
    assert np.abs(whole - general).max() <= 0.5 + 1e-3


def test_finer_tiles_are_interpolated_linearly():
    ramp = np.broadcast_to((np.arange(40) * 4).astype(np.uint8)[:, None, None], (40, 40, 3))
    fine = resample_tiles(ramp[None], (40.0, 40.0), 64)[0]
    centres = np.clip((np.arange(64) + 0.5) * 40 / 64 - 0.5, 0, 39)
    assert np.abs(fine[:, 5, 0] - centres * 4).max() <= 0.51


def test_a_tile_far_coarser_than_its_level_is_averaged_strip_by_strip():
    """Wider than one strip, at a ratio that is no whole number."""
    height, width, extent = 60, 4500, (59.5, 4499.25)
    tile = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows, cols = (
        area_weights(n, e, 9).astype(float) for n, e in zip((height, width), extent, strict=True)
    )
    expected = np.einsum("th,hwc,sw->tsc", rows, tile.astype(float), cols)
    result = resample_tiles(tile[None], extent, 9)[0]
    np.testing.assert_allclose(result, expected, atol=0.501)

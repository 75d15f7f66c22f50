from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.errors import BadArgumentError, GridError, MissingMppError
from napari_wsi_xai.geometry import Region
from napari_wsi_xai.tiles import TileGrid, tile_grid


@dataclass
class BareSlide:
    """What a grid needs of a slide."""

    bounds: Region
    mpp: tuple[float, float] | None = (0.5, 0.5)
    downsamples: tuple[float, ...] = (1.0,)

    def require_mpp(self) -> tuple[float, float]:
        if self.mpp is None:
            raise MissingMppError("no mpp")
        return self.mpp


slides = st.builds(
    BareSlide,
    bounds=st.builds(
        Region,
        st.integers(0, 5000),
        st.integers(0, 5000),
        st.integers(600, 12_000),
        st.integers(600, 12_000),
    ),
    mpp=st.tuples(st.floats(0.2, 0.6), st.floats(0.2, 0.6)),
    downsamples=st.sampled_from([(1.0,), (1.0, 4.0, 16.0), (1.0, 2.0005, 4.001)]),
)


@given(slide=slides, tile_px=st.integers(16, 200), stride=st.floats(0.3, 2))
def test_tiles_are_exact_and_fill_the_bounds(slide, tile_px, stride):
    grid = tile_grid(slide, tile_px=tile_px, mpp=0.5, stride_px=max(1, int(tile_px * stride)))
    rows, cols = grid.shape
    corners = grid.origins_level0().reshape(rows, cols, 2)
    exact = np.asarray(slide.bounds.origin) + np.stack(
        np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij"), axis=-1
    ) * (grid.stride_px * 0.5 / np.asarray(slide.mpp))
    assert np.abs(corners - exact).max() <= 0.5 + 1e-6
    end = (exact[-1, -1] + grid.tile_size_level0) * slide.mpp
    limit = np.add(slide.bounds.origin, slide.bounds.shape) * slide.mpp
    assert (end <= limit + 1e-3).all()
    assert (end + np.multiply(grid.stride_level0, slide.mpp) > limit - 1e-3).all()


@given(slide=slides, target=st.floats(0.15, 12))
def test_level_is_the_coarsest_that_is_fine_enough(slide, target):
    scale = target / max(slide.mpp)
    if scale < 0.5:
        with pytest.raises(GridError, match="more than twice as fine"):
            tile_grid(slide, 8, target)
        return
    grid = tile_grid(slide, 8, target)
    assert grid.downsample == slide.downsamples[grid.level]
    allowed = [d for d in slide.downsamples if d <= scale * 1.02]
    assert grid.downsample == max(allowed, default=1.0)


@pytest.mark.parametrize(
    ("mpp", "read"), [(0.5, 224.0), (0.509, 224.0), (0.52, 224 * 1.04), (1.0, 448.0)]
)
def test_resampled_only_when_off_by_more_than_two_percent(mpp, read):
    grid = tile_grid(BareSlide(Region(0, 0, 5000, 5000)), 224, mpp)
    assert grid.read_size == pytest.approx((read, read))


@given(slide=slides)
def test_dict_round_trip(slide):
    grid = tile_grid(slide, 64, 0.7)
    assert TileGrid.from_dict(grid.to_dict()) == grid


@given(slide=slides, row=st.integers(0, 50), col=st.integers(0, 50))
def test_map_pixel_lies_over_its_tile(slide, row, col):
    """The map's pixel edges in micrometres are the tile's edges, half a slide pixel shifted."""
    grid = tile_grid(slide, 128, 0.5)
    transform = grid.layer_transform()
    low = np.asarray(transform.translate) + (np.array([row, col]) - 0.5) * transform.scale
    corner = np.asarray(grid.origin_level0) + np.array([row, col]) * grid.stride_level0
    np.testing.assert_allclose(low, (corner - 0.5) * slide.mpp, rtol=1e-9)


def test_overlapping_tiles_have_map_pixels_centred_on_them():
    grid = tile_grid(BareSlide(Region(100, 0, 4000, 4000)), 200, 0.5, stride_px=50)
    transform = grid.layer_transform()
    centre_of_tile = np.asarray(grid.origins_level0([[3, 7]])[0]) + (200 - 1) / 2
    world = np.asarray(transform.translate) + np.array([3, 7]) * transform.scale
    np.testing.assert_allclose(world, centre_of_tile * 0.5)


@given(slide=slides)
def test_index_at_finds_the_tile_of_its_centre(slide):
    grid = tile_grid(slide, 200, 0.5)
    index = grid.indices()
    centres = grid.origins_level0(index) + np.asarray(grid.tile_size_level0) / 2
    np.testing.assert_array_equal(grid.index_at(centres), index)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tile_px": 4}, "tile_px=4"),
        ({"mpp": 0.0}, "mpp=0.0"),
        ({"mpp": float("nan")}, "mpp=nan"),
        ({"stride_px": 0}, "stride_px=0"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    with pytest.raises(BadArgumentError, match=words):
        tile_grid(BareSlide(Region(0, 0, 1000, 1000)), **arguments)


def test_tile_larger_than_the_slide():
    with pytest.raises(GridError, match=r"112 um, larger than the slide \(100 x 500 um\)"):
        tile_grid(BareSlide(Region(0, 0, 200, 1000)), 224, 0.5)
    exactly = tile_grid(BareSlide(Region(0, 0, 224, 224)), 224, 0.5)
    assert exactly.shape == (1, 1)


def test_missing_mpp_is_not_guessed():
    with pytest.raises(MissingMppError):
        tile_grid(BareSlide(Region(0, 0, 2000, 2000), mpp=None))

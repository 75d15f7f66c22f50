"""Every tile is covered exactly by its children, whatever the slide's numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.errors import BadArgumentError, GridError, MissingMppError
from napari_wsi_xai.geometry import Region
from napari_wsi_xai.slides import open_slide
from napari_wsi_xai.tiles import (
    TileGrid,
    children_of,
    mpp_ratios,
    nested_grids,
    parents_of,
    read_tiles,
    tile_grid,
)


@dataclass
class BareSlide:
    """What grids need of a slide."""

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
        st.integers(1, 12_000),
        st.integers(1, 12_000),
    ),
    mpp=st.tuples(st.floats(0.2, 0.6), st.floats(0.2, 0.6)),
    downsamples=st.sampled_from([(1.0,), (1.0, 4.0, 16.0), (1.0, 2.0005, 4.001)]),
)
ratio_lists = st.lists(st.integers(2, 8), min_size=1, max_size=3).filter(
    lambda ratios: math.prod(ratios) <= 64
)


def mpps_of(finest: float, ratios: list[int]) -> list[float]:
    mpps = [finest]
    for ratio in reversed(ratios):
        mpps.insert(0, mpps[0] * ratio)
    return mpps


@given(slide=slides, tile_px=st.integers(16, 300), finest=st.floats(0.3, 1.5), ratios=ratio_lists)
def test_children_cover_their_parent_to_the_pixel(slide, tile_px, finest, ratios):
    grids = nested_grids(slide, tile_px, mpps_of(finest, ratios))
    for coarse, fine, ratio in zip(grids, grids[1:], ratios, strict=False):
        assert fine.shape == (coarse.shape[0] * ratio, coarse.shape[1] * ratio)
        rows, cols = coarse.shape
        # One more row and column: the far edge of the last tile is a corner too.
        last = np.array([[0, 0], [rows, cols], [rows - 1, cols // 2], [rows // 3, cols]])
        np.testing.assert_array_equal(
            fine.origins_level0(last * ratio), coarse.origins_level0(last)
        )
        index = last[2:3]
        corners = fine.origins_level0(children_of(index, ratio)).reshape(ratio, ratio, 2)
        np.testing.assert_array_equal(corners[0, 0], coarse.origins_level0(index)[0])
        beyond = coarse.origins_level0(index + 1)[0]
        end = fine.origins_level0(index * ratio + ratio)[0]
        np.testing.assert_array_equal(end, beyond)
        assert (np.diff(corners[:, 0, 0]) > 0).all()
        assert (corners.reshape(-1, 2) < beyond).all()


@given(slide=slides, tile_px=st.integers(16, 300), finest=st.floats(0.3, 1.5), ratios=ratio_lists)
def test_the_bounds_are_covered_and_no_tile_lies_wholly_outside(slide, tile_px, finest, ratios):
    coarse = nested_grids(slide, tile_px, mpps_of(finest, ratios))[0]
    extent = np.multiply(coarse.shape, coarse.stride_level0)
    assert (extent >= np.subtract(slide.bounds.shape, 1e-2)).all()
    assert (extent - coarse.stride_level0 < slide.bounds.shape).all()
    assert coarse.origin_level0 == slide.bounds.origin


@given(slide=slides, ratios=ratio_lists)
def test_dict_round_trip(slide, ratios):
    for grid in nested_grids(slide, 64, mpps_of(0.7, ratios)):
        assert TileGrid.from_dict(grid.to_dict()) == grid


def test_the_form_of_a_grid_on_its_own_has_not_changed():
    """Stores hold it as their identity; those made before there were nested grids still match."""
    grid = tile_grid(BareSlide(Region(0, 0, 5000, 5000)), 224, 0.5)
    assert set(grid.to_dict()) == {
        "shape",
        "tile_px",
        "mpp",
        "stride_px",
        "origin_level0",
        "slide_mpp",
        "level",
        "downsample",
    }


@given(
    parents=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 900)), max_size=9),
    factor=st.integers(2, 8),
)
def test_children_and_parents(parents, factor):
    children = children_of(np.array(parents, dtype=int).reshape(-1, 2), factor)
    by_hand = [
        (r * factor + i, c * factor + j)
        for r, c in parents
        for i in range(factor)
        for j in range(factor)
    ]
    assert [tuple(child) for child in children.tolist()] == by_hand
    repeated = [parent for parent in parents for _ in range(factor**2)]
    assert [tuple(p) for p in parents_of(children, factor).tolist()] == repeated


@pytest.mark.parametrize(
    ("mpps", "words"),
    [
        ((2.0, 1.5), r"2 / 1\.5 = 1\.33333"),
        ((0.5, 2.0), r"0\.5 / 2 = 0\.25"),
        ((1.0, 1.0), "1 / 1 = 1 is no whole number of at least 2"),
        ((8.0, 2.0, 0.6), r"2 / 0\.6 = 3\.33333"),
        ((1e300, 1e-300), r"1e\+300 / 1e-300 = inf is no whole number"),
        ((), "above 0"),
        ((1.0, 0.0), "above 0"),
        ((float("nan"), 0.5), "above 0"),
    ],
)
def test_ratios_that_are_no_whole_numbers_are_named(mpps, words):
    with pytest.raises(BadArgumentError, match=words):
        nested_grids(BareSlide(Region(0, 0, 5000, 5000)), 64, mpps)


def test_decimal_fractions_count_as_what_they_mean():
    assert mpp_ratios((0.9, 0.3, 0.1)) == (3, 3)
    assert mpp_ratios((8, 2, 0.5)) == (4, 4)
    assert mpp_ratios([0.25]) == ()


def test_limits_hold_at_every_magnification():
    slide = BareSlide(Region(0, 0, 5000, 5000))
    with pytest.raises(GridError, match=r"mpp=0\.1 is more than twice as fine"):
        nested_grids(slide, 64, (0.4, 0.1))
    with pytest.raises(BadArgumentError, match="mpp=200"):
        nested_grids(slide, 64, (200, 100, 50))
    with pytest.raises(MissingMppError):
        nested_grids(replace(slide, mpp=None), 64, (2, 1))


def test_overhanging_tiles_are_white_outside(textured_slide):
    """1200 x 1500 px in coarse tiles of 512 px: 3 x 3, the last ones overhang by 336 and 36."""
    with open_slide(textured_slide) as slide:
        coarse, fine = nested_grids(slide, 64, (4.0, 1.0))
        assert coarse.shape == (3, 3)
        last = read_tiles(slide, coarse, [[2, 2]])[0]
        rows, cols = (1200 - 1024) / 8, (1500 - 1024) / 8
        assert (last[int(np.ceil(rows)) + 1 :] == 255).all()
        assert (last[:, int(np.ceil(cols)) + 1 :] == 255).all()
        inside = np.asarray(slide.levels[0][1024:1200, 1024:1488], dtype=float)
        mean = inside.reshape(22, 8, 58, 8, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(last[:22, :58], mean, atol=1.1)
        beyond = read_tiles(slide, fine, children_of([[2, 2]], 4)[-4:])  # rows from 1408
        assert (beyond == 255).all()


@pytest.mark.parametrize("mpps", [(4.0, 1.0, 0.5), (3.4, 1.7), (4.8, 0.8)])
def test_reading_together_equals_reading_one_by_one(textured_slide, mpps):
    with open_slide(textured_slide) as slide:
        for grid in nested_grids(slide, 64, mpps):
            index = grid.indices()[-30:]
            together = read_tiles(slide, grid, index)
            alone = np.concatenate([read_tiles(slide, grid, one) for one in index])
            np.testing.assert_array_equal(together, alone)


def test_children_show_what_their_parent_shows(textured_slide):
    """Averaged four by four, the sixteen children are the parent, seam or no seam."""
    with open_slide(textured_slide) as slide:
        coarse, fine = nested_grids(slide, 64, (4.0, 1.0))
        for parent in coarse.indices():
            whole = read_tiles(slide, coarse, parent)[0].astype(float)
            children = read_tiles(slide, fine, children_of(parent, 4)).astype(float)
            rows = children.reshape(4, 4, 16, 4, 16, 4, 3).mean(axis=(3, 5))
            put_together = rows.transpose(0, 2, 1, 3, 4).reshape(64, 64, 3)
            # The levels of the file are rounded means of one another.
            np.testing.assert_allclose(put_together, whole, atol=1.6)


def test_bounds_with_an_offset_hold_the_grid(textured_slide, monkeypatch):
    """What lies outside the bounds is white, even where the file has pixels."""
    with open_slide(textured_slide) as slide:
        monkeypatch.setattr(slide, "bounds", Region(301, 403, 500, 611))
        coarse, fine = nested_grids(slide, 50, (2.0, 0.5))
        assert coarse.shape == (3, 4)
        assert coarse.origin_level0 == fine.origin_level0 == (301, 403)
        level0 = np.asarray(slide.levels[0][:])
        first, last = read_tiles(slide, fine, [[0, 0], [9, 12]])
        np.testing.assert_array_equal(first, level0[301:351, 403:453])
        np.testing.assert_array_equal(last[:, :11], level0[751:801, 1003:1014])
        assert (last[:, 11:] == 255).all()
        assert (read_tiles(slide, fine, [[10, 0], [0, 13]]) == 255).all()


def test_a_real_slide_with_a_level_that_is_no_whole_number(shared_data):
    """Downsample 2.0005: corners agree on level 0, and children picture their parent."""
    path = shared_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    with open_slide(path, mpp=0.5) as slide:
        coarse, middle, fine = nested_grids(slide, 64, (2.0, 1.0, 0.5))
        assert middle.downsample == pytest.approx(2.0005, abs=1e-3)
        index = coarse.indices()
        np.testing.assert_array_equal(fine.origins_level0(index * 4), coarse.origins_level0(index))
        np.testing.assert_array_equal(
            middle.origins_level0(index * 2), coarse.origins_level0(index)
        )
        parent = np.array([[3, 4]])
        halves = read_tiles(slide, middle, children_of(parent, 2)).astype(float)
        put_together = halves.reshape(2, 2, 64, 64, 3).transpose(0, 2, 1, 3, 4)
        small = put_together.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
        whole = read_tiles(slide, coarse, parent)[0].astype(float)
        assert np.corrcoef(small.ravel(), whole.ravel())[0, 1] > 0.97
        last = read_tiles(slide, coarse, [np.subtract(coarse.shape, 1)])[0]
        ends = np.subtract(slide.shape, coarse.origins_level0([np.subtract(coarse.shape, 1)])[0])
        rows, cols = np.ceil(ends / 4).astype(int) + 1
        assert (last[rows:] == 255).all()
        assert (last[:, cols:] == 255).all()

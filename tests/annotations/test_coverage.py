from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity

from napari_wsi_xai.annotations import Annotation, cover_fraction, rasterise
from napari_wsi_xai.errors import BadArgumentError

GRID = np.stack(np.mgrid[0:5, 0:4], axis=-1).reshape(-1, 2) * 10


def test_half_covered_and_yx_order():
    # x from 5 to 20, y from 0 to 10: the first row's first tile is half covered.
    fraction = cover_fraction([shapely.box(5, 0, 20, 10)], GRID, (10, 10)).reshape(5, 4)
    expected = np.zeros((5, 4))
    expected[0] = [0.5, 1, 0, 0]
    np.testing.assert_allclose(fraction, expected, atol=1e-12)


def test_disc_has_its_area():
    disc = shapely.Point(20, 25).buffer(9, quad_segs=500)
    fraction = cover_fraction([disc], GRID, (10, 10))
    assert fraction.sum() * 100 == pytest.approx(math.pi * 81, rel=1e-4)


def test_hole_overlap_and_duplicates_count_once():
    outer = shapely.Polygon(
        shapely.box(0, 0, 10, 10).exterior, [shapely.box(2, 2, 4, 4).exterior.coords]
    )
    assert cover_fraction([outer], [(0, 0)], (10, 10)) == pytest.approx(0.96)
    twice = [outer, Annotation(outer), shapely.box(0, 0, 1, 1)]
    assert cover_fraction(twice, [(0, 0)], (10, 10)) == pytest.approx(0.96)


def test_tiles_may_overlap_and_be_oblong():
    fraction = cover_fraction([shapely.box(0, 0, 10, 5)], [(0, 0), (2.5, 5)], (5, 10))
    np.testing.assert_allclose(fraction, [1, 0.25])


def test_points_and_lines_cover_nothing_and_crossing_outlines_are_repaired():
    nothing = [shapely.Point(1, 1), shapely.LineString([(0, 0), (9, 9)])]
    assert cover_fraction(nothing, [(0, 0)], (10, 10)) == 0
    assert not rasterise(nothing, (10, 10)).any()
    bow_tie = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    mixed = shapely.GeometryCollection([bow_tie, shapely.MultiPolygon([shapely.box(0, 0, 1, 1)])])
    # Two triangles of 25 each; the small square adds its half outside them.
    assert cover_fraction([mixed], [(0, 0)], (10, 10)) == pytest.approx(0.505)
    assert rasterise([bow_tie], (100, 100), 0.1).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("geometries", [[], [shapely.Polygon()], [shapely.box(90, 90, 99, 99)]])
def test_nothing_covered(geometries):
    assert not cover_fraction(geometries, GRID, (10, 10)).any()
    assert not rasterise(geometries, (50, 40)).any()
    assert cover_fraction(geometries, np.empty((0, 2)), (10, 10)).shape == (0,)
    assert rasterise(geometries, (0, 3)).shape == (0, 3)


polygons = st.builds(
    lambda x, y, size, angle, stretch: affinity.rotate(
        shapely.box(x, y, x + size, y + size * stretch), angle
    ),
    st.floats(-20, 50),
    st.floats(-20, 50),
    st.floats(1, 40),
    st.floats(0, 90),
    st.floats(0.2, 2),
)


@settings(max_examples=50)
@given(st.lists(polygons, min_size=1, max_size=6))
def test_fractions_add_up_to_the_union(shapes):
    origins = np.stack(np.mgrid[-10:12, -10:12], axis=-1).reshape(-1, 2) * 10
    fraction = cover_fraction(shapes, origins, (10, 10))
    assert ((fraction >= 0) & (fraction <= 1)).all()
    assert fraction.sum() * 100 == pytest.approx(shapely.union_all(shapes).area, rel=1e-9)


@settings(max_examples=50)
@given(
    st.lists(polygons, min_size=1, max_size=4),
    st.floats(0.7, 5),
    st.tuples(st.floats(-30, 10), st.floats(-30, 10)),
)
def test_mask_is_true_where_pixel_centres_lie_inside(shapes, downsample, origin):
    mask = rasterise(shapes, (17, 23), (downsample, 2 * downsample), origin)
    rows, columns = np.mgrid[0:17, 0:23] + 0.5
    y, x = origin[0] + rows * downsample, origin[1] + columns * 2 * downsample
    union = shapely.union_all(shapes)
    with np.errstate(divide="ignore"):
        clear = shapely.distance(shapely.points(x, y), union.boundary) > 1e-6
    np.testing.assert_array_equal(mask[clear], shapely.contains_xy(union, x, y)[clear])


def test_neighbours_share_no_pixel_and_leave_none_out():
    # Pixel centres lie exactly on the shared edge.
    left, right = shapely.box(0, 0, 4.5, 8), shapely.box(4.5, 0, 9, 8)
    a, b = rasterise([left], (8, 9)), rasterise([right], (8, 9))
    assert not (a & b).any()
    assert (a | b).all()


def test_bad_arguments():
    with pytest.raises(BadArgumentError, match="tile_size_level0"):
        cover_fraction([], GRID, (0, 10))
    with pytest.raises(BadArgumentError, match="downsample"):
        rasterise([], (3, 3), 0)

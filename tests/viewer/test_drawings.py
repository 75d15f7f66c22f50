"""Drawn areas arrive in level-0 pixels."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Labels, Shapes

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.tiles import TileGrid
from napari_wsi_xai.viewer.drawings import labels_drawing, outlines
from napari_wsi_xai.viewer.slide_layers import Placement

PLACEMENT = Placement((0.25, 0.25))


def corners(y: float, x: float, height: float, width: float) -> np.ndarray:
    """A rectangle of level-0 pixels in micrometres, as napari's world has it."""
    level0 = np.array([(y, x), (y, x + width), (y + height, x + width), (y + height, x)])
    return (level0 - 0.5) * 0.25


def test_outlines_come_back_in_level0_pixels_x_first() -> None:
    layer = Shapes([corners(100, 300, 40, 80)], shape_type="rectangle", units=("um", "um"))
    (polygon,) = outlines(layer, PLACEMENT)
    np.testing.assert_allclose(polygon.bounds, (300, 100, 380, 140), atol=1e-9)


def test_scaled_layers_and_slides_in_pixels_agree() -> None:
    drawn = np.array([(10, 20), (10, 60), (50, 60), (50, 20)]) - 0.5
    layer = Shapes([drawn], shape_type="polygon", scale=(0.5, 0.5), translate=(3, 4))
    (polygon,) = outlines(layer, Placement((0.5, 0.5), (3, 4)))
    np.testing.assert_allclose(polygon.bounds, (20, 10, 60, 50), atol=1e-9)


def test_an_ellipse_has_the_area_of_an_ellipse() -> None:
    layer = Shapes([corners(0, 0, 200, 400)], shape_type="ellipse")
    (polygon,) = outlines(layer, PLACEMENT)
    assert polygon.area == pytest.approx(np.pi * 100 * 200, rel=2e-3)


def test_only_selected_shapes_or_all_where_none_is_selected() -> None:
    layer = Shapes([corners(0, 0, 9, 9), corners(50, 50, 9, 9)], shape_type="rectangle")
    layer.selected_data = {1}
    (polygon,) = outlines(layer, PLACEMENT, selected_only=True)
    assert polygon.bounds[0] == pytest.approx(50)
    assert len(outlines(layer, PLACEMENT)) == 2
    layer.selected_data = set()
    assert len(outlines(layer, PLACEMENT, selected_only=True)) == 2


def test_lines_are_no_area() -> None:
    layer = Shapes([corners(0, 0, 9, 9)[:2]], shape_type="line", name="cut")
    with pytest.raises(BadArgumentError, match='"cut" holds no area'):
        outlines(layer, PLACEMENT)


def test_labels_cover_the_tiles_they_are_drawn_on() -> None:
    # One label pixel is 8 level-0 pixels; label (2, 3) covers level 0 rows 16-24, columns 24-32.
    array = np.zeros((20, 20), dtype=np.uint8)
    array[2, 3] = 5
    layer = Labels(array, scale=(2.0, 2.0), translate=(7 / 2 * 0.25, 7 / 2 * 0.25))
    mask = labels_drawing(layer, PLACEMENT).mask()
    grid = TileGrid((20, 20), 8, 0.25, 8, (0, 0), (0.25, 0.25), 0, 1.0)
    fraction = mask.fraction(grid)
    assert fraction[2, 3] == pytest.approx(1)
    assert fraction.sum() == pytest.approx(1)


def test_a_label_pyramid_is_read_at_a_level_of_bounded_size() -> None:
    levels = [
        np.zeros((16400, 30), np.uint8),
        np.zeros((8200, 15), np.uint8),
        np.ones((4100, 15), np.uint8),
    ]
    layer = Labels(levels, multiscale=True)
    drawing = labels_drawing(layer, Placement((1.0, 1.0)))
    assert drawing.array.shape == (4100, 15)
    assert drawing.pixel_size_level0 == (4, 2)
    assert drawing.origin_level0 == (0, 0)
    assert drawing.in_memory().array.dtype == bool


def test_rotated_labels_are_refused() -> None:
    layer = Labels(np.zeros((4, 4), np.uint8), rotate=30, name="turned")
    with pytest.raises(BadArgumentError, match='"turned" is rotated'):
        labels_drawing(layer, PLACEMENT)

"""What the window shows of a slide."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from napari.components import ViewerModel

from napari_wsi_xai.geometry import Region
from napari_wsi_xai.viewer.slide_layers import Placement
from napari_wsi_xai.viewer.view import visible_region, world_to_level0


@given(st.floats(0.1, 3), st.floats(-50, 50), st.integers(0, 1000))
def test_level0_corner_of_a_pixel_is_half_a_pixel_before_its_centre(
    scale: float, translate: float, index: int
) -> None:
    placement = Placement((scale, scale), (translate, translate))
    centre = np.array([index, index]) * scale + translate
    np.testing.assert_allclose(world_to_level0(centre, placement), index + 0.5, atol=1e-6)


def test_region_is_the_canvas_over_the_zoom_around_the_centre() -> None:
    viewer = ViewerModel()
    viewer.scene.camera.center = (0, 400.0, 500.0)
    viewer.scene.camera.zoom = 2.0  # screen pixels per micrometre
    height, width = viewer.canvas.size
    region = visible_region(viewer, Placement((0.5, 0.5)), (100_000, 100_000))
    assert region is not None
    top, left = (400 - height / 4) / 0.5, (500 - width / 4) / 0.5
    np.testing.assert_allclose((region.y, region.x), (top, left), atol=1.5)
    np.testing.assert_allclose(region.shape, (height, width), atol=2)


def test_region_ends_at_the_slide_and_is_none_beside_it() -> None:
    viewer = ViewerModel()
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, 0.0, 0.0), 0.001
    assert visible_region(viewer, Placement((0.5, 0.5)), (300, 200)) == Region(0, 0, 300, 200)
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, -9e6, 0.0), 10
    assert visible_region(viewer, Placement((0.5, 0.5)), (300, 200)) is None


def test_nothing_is_in_view_in_3d() -> None:
    viewer = ViewerModel(ndisplay=3)
    assert visible_region(viewer, Placement((0.5, 0.5)), (300, 200)) is None

"""Which part of a slide the user is looking at, in level-0 pixels."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_wsi_xai.geometry import Region
from napari_wsi_xai.viewer.slide_layers import Placement

if TYPE_CHECKING:
    import napari.viewer

__all__ = ["camera_of", "visible_region", "world_to_level0"]


def world_to_level0(points_world: np.ndarray, placement: Placement) -> np.ndarray:
    """World coordinates (..., 2) yx to level-0 pixel coordinates, whose pixel corners are whole.

    napari puts the *centre* of pixel 0 at ``translate``, level-0 coordinates put its *corner* at
    0: half a pixel apart.
    """
    pixels = (np.asarray(points_world, dtype=float) - placement.translate) / placement.scale
    return np.asarray(pixels + 0.5)


def visible_region(
    viewer: napari.viewer.Viewer, placement: Placement, shape: tuple[int, int]
) -> Region | None:
    """The rectangle of the slide that the canvas shows, or None where it shows nothing of it.

    Parameters
    ----------
    viewer
        The viewer; its camera and canvas size are read.
    placement
        Where the slide lies in the world.
    shape
        Level-0 size of the slide, yx.
    """
    if viewer.dims.ndisplay != 2:
        return None
    camera = camera_of(viewer)
    centre = np.asarray(camera.center[-2:], dtype=float)
    half = np.asarray(_canvas_size(viewer), dtype=float) / max(camera.zoom, 1e-12) / 2
    corners = [centre + half * signs for signs in product((-1, 1), repeat=2)]
    pixels = world_to_level0(np.asarray(corners), placement)
    low = np.clip(np.floor(pixels.min(axis=0)), 0, shape).astype(int)
    high = np.clip(np.ceil(pixels.max(axis=0)), 0, shape).astype(int)
    if (high <= low).any():
        return None
    height, width = high - low
    return Region(int(low[0]), int(low[1]), int(height), int(width))


def camera_of(viewer: napari.viewer.Viewer) -> Any:
    """The viewer's camera; the attribute moved between versions."""
    scene = getattr(viewer, "scene", None)
    return viewer.camera if scene is None else scene.camera


def _canvas_size(viewer: napari.viewer.Viewer) -> tuple[int, int]:
    """Height and width of the canvas in screen pixels; the attribute moved between versions."""
    canvas = getattr(viewer, "canvas", None)
    size = canvas.size if canvas is not None else viewer._canvas_size
    return int(size[0]), int(size[1])

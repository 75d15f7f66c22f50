"""What the user drew, in level-0 pixels: outlines from Shapes, rasters from Labels layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.tiles import TissueMask
from napari_wsi_xai.viewer.slide_layers import Placement
from napari_wsi_xai.viewer.view import world_to_level0

if TYPE_CHECKING:
    from napari.layers import Labels, Layer, Shapes
    from shapely.geometry.base import BaseGeometry

__all__ = ["LabelsDrawing", "labels_drawing", "outlines"]

ELLIPSE_POINTS = 72
LARGEST_RASTER_PX = 8192


@dataclass(frozen=True, eq=False)
class LabelsDrawing:
    """A Labels layer's array, not looked at yet, and where it lies on level 0 (yx)."""

    array: Any
    origin_level0: tuple[float, float]
    pixel_size_level0: tuple[float, float]

    def in_memory(self) -> LabelsDrawing:
        """The same over a plain bool array; reads the array, so not for the main thread."""
        return replace(self, array=np.asarray(self.array) > 0)

    def mask(self) -> TissueMask:
        """Every labelled pixel counts as tissue; reads the array, so not for the main thread."""
        return TissueMask(np.asarray(self.array) > 0, self.origin_level0, self.pixel_size_level0)


def labels_drawing(layer: Labels, placement: Placement) -> LabelsDrawing:
    """Where a Labels layer lies on the slide; of a pyramid, a level of at most 8192 px a side.

    Raises
    ------
    BadArgumentError
        The layer is not 2-D, or is rotated.
    """
    _require_upright(layer)
    levels = list(layer.data) if layer.multiscale else [layer.data]
    array = next((level for level in levels if max(level.shape) <= LARGEST_RASTER_PX), levels[-1])
    ratio = np.asarray(levels[0].shape, dtype=float) / np.asarray(array.shape)
    scale = np.asarray(layer.scale, dtype=float)
    corner = world_to_level0(np.asarray(layer.translate) - scale / 2, placement)
    pixel = scale * ratio / np.asarray(placement.scale)
    return LabelsDrawing(
        array, (float(corner[0]), float(corner[1])), (float(pixel[0]), float(pixel[1]))
    )


def outlines(
    layer: Shapes, placement: Placement, selected_only: bool = False
) -> tuple[BaseGeometry, ...]:
    """Areas drawn in a Shapes layer as shapely polygons, (x, y) level-0 pixels.

    Lines and paths have no area and are left out.

    Parameters
    ----------
    layer
        The Shapes layer.
    placement
        Where the slide lies in the world.
    selected_only
        Only the selected shapes; all where none is selected.

    Raises
    ------
    BadArgumentError
        Nothing with an area is there.
    """
    import shapely

    chosen = sorted(layer.selected_data) if selected_only and layer.selected_data else None
    found = []
    for index in range(layer.nshapes) if chosen is None else chosen:
        kind = str(layer.shape_type[index])
        if kind in ("line", "path"):
            continue
        vertices = np.asarray(layer.data[index], dtype=float)[:, -2:]
        if kind == "ellipse":
            vertices = _ellipse(vertices)
        world = np.array([layer.data_to_world(vertex)[-2:] for vertex in vertices])
        polygon = shapely.Polygon(world_to_level0(world, placement)[:, ::-1])
        found.append(shapely.make_valid(polygon))
    if not found:
        raise BadArgumentError(f'the layer "{layer.name}" holds no area: draw a polygon first.')
    return tuple(found)


def _ellipse(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points on the ellipse in a box of four corners (napari's form of an ellipse)."""
    centre = box.mean(axis=0)
    first, second = (box[1] - box[0]) / 2, (box[3] - box[0]) / 2
    angle = np.linspace(0, 2 * np.pi, ELLIPSE_POINTS, endpoint=False)[:, None]
    return np.asarray(centre + np.cos(angle) * first + np.sin(angle) * second)


def _require_upright(layer: Layer) -> None:
    if layer.ndim != 2:
        raise BadArgumentError(f'the layer "{layer.name}" has {layer.ndim} axes, not 2 (y, x).')
    if not np.allclose(layer.rotate, np.eye(2)) or not np.allclose(layer.shear, 0):
        raise BadArgumentError(f'the layer "{layer.name}" is rotated: it must lie like the slide.')

"""Polygons over pixels and tiles: a mask of what they cover, and how much of each tile.

Polygons that overlap count once: it is always their union that is meant. Points and lines cover
nothing. Polygons that cross themselves are repaired first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray
from shapely.geometry.base import BaseGeometry

from napari_wsi_xai.annotations.annotation import Annotation
from napari_wsi_xai.errors import BadArgumentError

__all__ = ["cover_fraction", "rasterise"]


def cover_fraction(
    geometries: Iterable[BaseGeometry | Annotation],
    origins_level0: ArrayLike,
    tile_size_level0: tuple[float, float],
) -> NDArray[np.float64]:
    """Share of each tile's area that the polygons cover, exactly.

    Parameters
    ----------
    geometries
        Shapely geometries (or annotations) in level-0 pixels, points as (x, y).
    origins_level0
        (n, 2), first corners of the tiles, yx.
    tile_size_level0
        Height and width of every tile, level-0 pixels.

    Returns
    -------
    ndarray
        (n,) float64 in [0, 1].

    Raises
    ------
    BadArgumentError
        ``tile_size_level0`` is not positive.
    """
    height, width = tile_size_level0
    if not (height > 0 and width > 0):
        raise BadArgumentError(f"tile_size_level0={tile_size_level0} must be above 0.")
    origins = np.asarray(origins_level0, dtype=np.float64).reshape(-1, 2)
    y, x = origins[:, 0], origins[:, 1]
    covered = np.zeros(len(origins))
    parts = _parts(geometries)
    if len(origins) == 0 or len(parts) == 0:
        return covered
    boxes = shapely.box(x, y, x + width, y + height)
    tree = shapely.STRtree(boxes)
    # The parts do not overlap each other, so their shares of a tile simply add up. Tiles wholly
    # inside, by far the most, need no intersection.
    part, tile = tree.query(parts, predicate="intersects")
    inside_part, inside_tile = tree.query(parts, predicate="covers")
    covered[inside_tile] = height * width
    inside = np.isin(part * len(boxes) + tile, inside_part * len(boxes) + inside_tile)
    part, tile = part[~inside], tile[~inside]
    area = shapely.area(shapely.intersection(parts[part], boxes[tile]))
    covered += np.bincount(tile, weights=area, minlength=len(boxes))
    return np.clip(covered / (height * width), 0.0, 1.0)


def rasterise(
    geometries: Iterable[BaseGeometry | Annotation],
    shape: tuple[int, int],
    downsample: float | tuple[float, float] = 1.0,
    origin: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.bool_]:
    """Mask of the pixels whose centres lie inside the polygons.

    Parameters
    ----------
    geometries
        Shapely geometries (or annotations) in level-0 pixels, points as (x, y).
    shape
        Rows and columns of the mask.
    downsample
        Edge of one mask pixel in level-0 pixels, one number or (y, x).
    origin
        Corner of the first mask pixel in level-0 pixels, yx.

    Returns
    -------
    ndarray
        ``shape`` bool. A centre exactly on an outline belongs to the polygon below or to the
        right of it, so polygons that share an edge never share a pixel.

    Notes
    -----
    Scan lines with the even-odd rule: on each row of pixel centres a pixel is inside if an odd
    number of edges cross the row at or before it. The union's rings, holes included, never
    cross, so the rule is exact.
    """
    rows, columns = shape
    step_y, step_x = np.broadcast_to(np.asarray(downsample, dtype=np.float64), 2)
    if rows < 0 or columns < 0 or not (step_y > 0 and step_x > 0):
        raise BadArgumentError(
            f"shape={shape} must not be negative and downsample={downsample} must be above 0."
        )
    start, end = _edges(_parts(geometries))
    # In pixels, with pixel centres on the integers.
    scale, shift = np.array([step_x, step_y]), np.array([origin[1], origin[0]])
    start, end = (start - shift) / scale - 0.5, (end - shift) / scale - 0.5
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    first = np.clip(np.ceil(low), 0, rows).astype(np.int64)
    count = np.clip(np.ceil(high), 0, rows).astype(np.int64) - first
    edge = np.repeat(np.arange(len(start)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    run = (end - start)[edge]
    crossing = start[edge, 0] + (row - start[edge, 1]) * run[:, 0] / run[:, 1]
    column = np.clip(np.ceil(crossing), 0, columns).astype(np.int64)
    toggles = np.bincount(row * (columns + 1) + column, minlength=rows * (columns + 1))
    inside = np.cumsum(toggles.reshape(rows, columns + 1), axis=1) % 2 == 1
    return np.ascontiguousarray(inside[:, :columns])


def _parts(geometries: Iterable[BaseGeometry | Annotation]) -> NDArray[Any]:
    """Return the union of all polygons as single polygons that do not overlap."""
    plain = [g.geometry if isinstance(g, Annotation) else g for g in geometries]
    valid = shapely.make_valid(np.asarray(plain, dtype=object))
    union = shapely.get_parts(shapely.union_all(_polygons(valid)))
    return _polygons(union)


def _polygons(geometries: NDArray[Any]) -> NDArray[Any]:
    """Return the polygons among the geometries and inside their collections."""
    parts = np.atleast_1d(geometries)
    # A collection may hold multipolygons: two rounds reach single polygons.
    for _ in range(2):
        parts = shapely.get_parts(parts)
    polygons: NDArray[Any] = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    return polygons


def _edges(polygons: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return start and end points, (n, 2) xy, of the edges of all rings."""
    points, ring = shapely.get_coordinates(shapely.get_rings(polygons), return_index=True)
    joined = ring[:-1] == ring[1:]
    return points[:-1][joined], points[1:][joined]

"""Pixels of tiles: one region read for neighbouring tiles, then one cut per tile."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_wsi_xai.slides import Slide
from napari_wsi_xai.tiles.grid import TileGrid
from napari_wsi_xai.tiles.resample import resample_tiles

__all__ = ["read_tiles"]

MAX_WASTE = 4.0
"""Tiles are read one by one where their common region is larger than this times their area."""

WHITE = 255
"""Of pixels outside the slide's bounds, in tiles of nested grids that overhang them."""

MAX_REGION_PX = 8192
"""Longest side of one region read, so that memory stays bounded for far-apart tiles."""


def read_tiles(slide: Slide, grid: TileGrid, indices: ArrayLike) -> NDArray[np.uint8]:
    """Pixels of the tiles at ``indices``.

    Parameters
    ----------
    slide, grid
        The slide and the grid laid on it.
    indices
        (n, 2) row and column of the tiles; neighbours are read together.

    Returns
    -------
    (n, tile_px, tile_px, 3) uint8 RGB.

    Raises
    ------
    SlideReadError
        Pixels cannot be read.
    """
    index = np.asarray(indices, dtype=np.int64).reshape(-1, 2)
    if len(index) == 0:
        return np.empty((0, grid.tile_px, grid.tile_px, 3), dtype=np.uint8)
    corners = _corners_at_level(grid, index)
    size = tuple(math.ceil(edge - 1e-6) for edge in grid.read_size)
    low, high = corners.min(axis=0), corners.max(axis=0) + size
    region = high - low
    if region.max() <= MAX_REGION_PX and region.prod() <= MAX_WASTE * len(index) * math.prod(size):
        cuts = _cut_from_region(slide, grid, corners, size, low, high)
        return resample_tiles(cuts, grid.read_size, grid.tile_px)
    tiles = []
    for corner in corners:  # resampled at once: far coarser than the level, a tile is large
        cut = _cut_from_region(slide, grid, corner[None], size, corner, corner + size)
        tiles.append(resample_tiles(cut, grid.read_size, grid.tile_px))
    return np.concatenate(tiles)


def _corners_at_level(grid: TileGrid, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Corner of every tile in pixels of the grid's level, each rounded from level 0."""
    exact = grid.origins_level0(index) / grid.downsample
    return np.floor(exact + 0.5).astype(np.int64)


def _cut_from_region(
    slide: Slide,
    grid: TileGrid,
    corners: NDArray[np.int64],
    size: tuple[int, ...],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Read the rectangle ``low`` to ``high`` of the grid's level and cut the tiles out of it."""
    origin = np.floor(low * grid.downsample + 0.5).astype(int)
    height, width = (int(n) for n in high - low)
    region = slide.read_region((int(origin[0]), int(origin[1])), (height, width), grid.level)
    if grid.finest_mpp is not None:
        region = _white_outside(region, slide, grid, low)
    windows = np.lib.stride_tricks.sliding_window_view(region, size, axis=(0, 1))
    offsets = corners - low
    return np.ascontiguousarray(windows[offsets[:, 0], offsets[:, 1]].transpose(0, 2, 3, 1))


def _white_outside(
    region: NDArray[np.uint8], slide: Slide, grid: TileGrid, low: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """The region, white below and right of the slide's bounds; ``low`` is its first pixel.

    A pixel lies outside where its centre does, or where the level has ended already.
    """
    ends = np.add(slide.bounds.origin, slide.bounds.shape) / grid.downsample
    inside = np.minimum(np.floor(ends + 0.5).astype(int), slide.level_shapes[grid.level]) - low
    if (inside >= region.shape[:2]).all():
        return region
    region = region.copy()
    rows, cols = np.maximum(inside, 0)
    region[rows:] = WHITE
    region[:, cols:] = WHITE
    return region

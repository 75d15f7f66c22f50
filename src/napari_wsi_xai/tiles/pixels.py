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
    else:
        cuts = np.stack(
            [_cut_from_region(slide, grid, c[None], size, c, c + size)[0] for c in corners]
        )
    return resample_tiles(cuts, grid.read_size, grid.tile_px)


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
    windows = np.lib.stride_tricks.sliding_window_view(region, size, axis=(0, 1))
    offsets = corners - low
    return np.ascontiguousarray(windows[offsets[:, 0], offsets[:, 1]].transpose(0, 2, 3, 1))

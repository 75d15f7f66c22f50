"""Exact resampling of tiles between two pixel sizes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["area_weights", "resample_tiles"]

STRIP_PX = 2048
"""Columns turned into floats at once: a tile far coarser than its level has many."""


@lru_cache(maxsize=32)
def area_weights(source_px: int, extent: float, target_px: int) -> NDArray[np.float32]:
    """Weights (target_px, source_px) that average ``extent`` source pixels into ``target_px``.

    Row t is the share of every source pixel in the interval
    ``[t, t + 1] * extent / target_px``; rows add up to one. Where the target is finer than the
    source (``extent < target_px``) rows interpolate linearly between source pixel centres.
    """
    step = extent / target_px
    if step >= 1:
        edges = np.arange(target_px + 1) * step
        pixels = np.arange(source_px)
        overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        weights = np.clip(overlap, 0, None)
    else:
        centres = np.clip((np.arange(target_px) + 0.5) * step - 0.5, 0, source_px - 1)
        weights = np.clip(1 - np.abs(centres[:, None] - np.arange(source_px)), 0, None)
    shares: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    shares.setflags(write=False)
    return shares


def resample_tiles(
    tiles: NDArray[np.uint8], extent: tuple[float, float], tile_px: int
) -> NDArray[np.uint8]:
    """Area-average tiles (n, h, w, 3), of which ``extent`` (y, x) pixels count, to ``tile_px``.

    Returns
    -------
    (n, tile_px, tile_px, 3) uint8, rounded to nearest.
    """
    count, height, width, _ = tiles.shape
    factor = height // tile_px
    if height == width == factor * tile_px and extent == (height, width):
        if factor == 1:
            return tiles
        return _mean_pool(tiles, factor, tile_px)
    rows = area_weights(height, extent[0], tile_px)
    cols = area_weights(width, extent[1], tile_px)
    result = np.empty((count, tile_px, tile_px, 3), dtype=np.uint8)
    for i, tile in enumerate(tiles):  # one tile at a time keeps the float copy in cache
        strips = [tile[:, start : start + STRIP_PX] for start in range(0, width, STRIP_PX)]
        tall = np.concatenate(
            [rows @ strip.reshape(height, -1).astype(np.float32) for strip in strips], axis=1
        )
        wide = tall.reshape(tile_px, width, 3).transpose(0, 2, 1) @ cols.T
        result[i] = np.rint(wide).transpose(0, 2, 1)
    return result


def _mean_pool(tiles: NDArray[np.uint8], factor: int, tile_px: int) -> NDArray[np.uint8]:
    """Mean of ``factor`` x ``factor`` pixels, rounded half up, in integers."""
    area = factor * factor
    split = tiles.reshape(-1, tile_px, factor, tile_px, factor, 3)
    total = split.sum(axis=(2, 4), dtype=np.uint32)
    mean: NDArray[np.uint8] = ((total + area // 2) // area).astype(np.uint8)
    return mean

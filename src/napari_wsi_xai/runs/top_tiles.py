"""The highest-scoring tiles of a map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.tiles import TileGrid

__all__ = ["TopTile", "top_tiles"]


@dataclass(frozen=True)
class TopTile:
    """One of the highest-scoring tiles: its rank (from 1), score, place on grid and level 0."""

    rank: int
    score: float
    row: int
    column: int
    y_level0: int
    x_level0: int


def top_tiles(values: NDArray[np.float32], grid: TileGrid, count: int = 10) -> list[TopTile]:
    """The ``count`` tiles with the highest values, best first; NaN never counts.

    Equal values are taken in the grid's order, row by row.
    """
    flat = values.ravel()
    finite = np.flatnonzero(np.isfinite(flat))
    best = finite[np.argsort(-flat[finite], kind="stable")[:count]]
    index = np.stack(np.unravel_index(best, values.shape), axis=1)
    corners = grid.origins_level0(index)
    return [
        TopTile(rank, float(values[row, col]), int(row), int(col), int(y), int(x))
        for rank, ((row, col), (y, x)) in enumerate(zip(index, corners, strict=True), start=1)
    ]

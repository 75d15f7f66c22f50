"""Frames around the tiles that a zooming head opened, at every magnification, in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.tiles import TileGrid
from napari_wsi_xai.viewer.snapshot import Features, Labels, frame_parts

__all__ = ["OpenedTiles", "finest_opening", "frame_opened"]

FEATURE_COLUMNS = (
    *("index", "magnification", "row", "column", "attention", "selection weight"),
    *("y_level0", "x_level0"),
)

FINEST_PARTS = 24
"""Frames a 24th of a tile thick: finer than those of top tiles, because they lie in each other."""


@dataclass(frozen=True, eq=False)
class OpenedTiles:
    """What was opened at one magnification.

    Attributes
    ----------
    grid
        Its tiles.
    index
        (n, 2) row and column of the opened tiles.
    attention, selection
        (n,) weight in the decision, and the weight by which they were chosen; NaN where not known.
    """

    grid: TileGrid
    index: NDArray[np.int64]
    attention: NDArray[np.float32]
    selection: NDArray[np.float32]


def finest_opening(count: int) -> int:
    """The finest of ``count`` magnifications at which tiles are opened: the last but one."""
    return max(0, count - 2)


def frame_opened(levels: Sequence[OpenedTiles]) -> tuple[Labels, Features, int]:
    """Frames of the opened tiles, coarse to fine, drawn on the grid of the last of ``levels``.

    Label ``1 + m + M r`` is the opened tile of rank r (from 0, by the weight it was chosen with) of
    the m-th of M magnifications, so that colours can repeat every M labels. A coarser frame is
    thicker, and a finer one lies within it.

    Parameters
    ----------
    levels
        Magnifications at which tiles can be opened, coarse to fine.

    Returns
    -------
    labels
        (rows * n, cols * n) of the last grid; 0 where there is no frame. uint8 where that is
        enough: napari shows it without conversion.
    features
        One row a label, first the background's row 0.
    parts
        n, label pixels per tile of the last grid.
    """
    last, count = levels[-1].grid, len(levels)
    parts = frame_parts(last.shape, FINEST_PARTS)
    height, width = last.shape
    most = max(len(level.index) for level in levels)
    small, size = count * most <= 255, (height * parts, width * parts)
    labels: Labels = np.zeros(size, np.uint8) if small else np.zeros(size, np.uint16)
    rows: list[tuple[object, ...]] = [(0, "background", -1, -1, np.nan, np.nan, -1, -1)]
    for number, level in enumerate(levels):
        ratio = level.grid.finest_per_side // last.finest_per_side
        corners = level.grid.origins_level0(level.index)
        for rank, one in enumerate(np.argsort(-level.selection, kind="stable")):
            label = 1 + number + count * rank
            row, column = (int(value) for value in level.index[one])
            _frame(labels, parts * ratio, (row, column), label, number, count - number)
            weights = (float(level.attention[one]), float(level.selection[one]))
            corner = (int(corners[one, 0]), int(corners[one, 1]))
            rows.append((label, f"{level.grid.mpp:g} µm/px", row, column, *weights, *corner))
    columns = zip(FEATURE_COLUMNS, zip(*rows, strict=True), strict=True)
    return labels, {name: list(values) for name, values in columns}, parts


def _frame(
    labels: Labels, span: int, tile: tuple[int, int], label: int, inset: int, thickness: int
) -> None:
    """Draw a rim into a tile of ``span`` label pixels; the whole tile where it has too few."""
    row, column = tile
    if span < 2 * (inset + thickness) + 1:
        inset, thickness = 0, 1
    low, high = inset, span - inset
    square = labels[
        row * span + low : row * span + high, column * span + low : column * span + high
    ]
    inner = square[thickness:-thickness, thickness:-thickness].copy()
    square[...] = label
    if span >= 3:
        square[thickness:-thickness, thickness:-thickness] = inner

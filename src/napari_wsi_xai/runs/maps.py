"""From a MIL head's output to maps: one value a tile, NaN where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from napari_wsi_xai.models import MILOutput

__all__ = ["ALL_CLASSES", "map_of_tiles", "maps_from_output"]

MOST_BRANCHES = 8
"""Scores a tile that are shown as maps of their own; more make one map, of their length."""

ALL_CLASSES = "all"
"""Class part of a map's name where a head has one score for all classes."""


def maps_from_output(
    output: MILOutput, index: NDArray[np.int64], shape: tuple[int, int], classes: tuple[str, ...]
) -> dict[str, NDArray[np.float32]]:
    r"""Lay tile scores and attention out on the grid.

    Parameters
    ----------
    output
        Of a bag of n tiles; scores (n, K), attention (n, K) or None.
    index
        (n, 2) row and column of those tiles.
    shape
        The grid's (rows, cols).
    classes
        Class names; a head with as many columns as classes gets one map a class. Where there are
        more than eight columns that are no classes (channels of a convolution, say),
        ``"tile-scores/all"`` holds their Euclidean length, :math:`\sqrt{\sum_k s_k^2}`.

    Returns
    -------
    ``"tile-scores/<class>"`` and ``"attention/<class>"`` to (rows, cols) float32.
    """
    scores = output.tile_scores
    if scores.shape[1] > MOST_BRANCHES and scores.shape[1] != len(classes):
        scores = scores.detach().float().norm(dim=1, keepdim=True)
    maps = _columns("tile-scores", scores, index, shape, classes)
    if output.attention is not None:
        maps |= _columns("attention", output.attention, index, shape, classes)
    return maps


def _columns(
    method: str,
    values: Tensor,
    index: NDArray[np.int64],
    shape: tuple[int, int],
    classes: tuple[str, ...],
) -> dict[str, NDArray[np.float32]]:
    count = values.shape[1]
    if count == 1:
        labels: tuple[str, ...] = (ALL_CLASSES,)
    elif count == len(classes):
        labels = classes
    else:
        labels = tuple(f"branch {k + 1}" for k in range(count))
    columns = values.detach().float().cpu().numpy()
    return {
        f"{method}/{label}": map_of_tiles(column, index, shape)
        for label, column in zip(labels, columns.T, strict=True)
    }


def map_of_tiles(
    values: NDArray[np.float32], index: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Values (n,) of the tiles at ``index`` (n, 2) on a grid, NaN elsewhere."""
    canvas = np.full(shape, np.nan, dtype=np.float32)
    canvas[index[:, 0], index[:, 1]] = values
    return canvas

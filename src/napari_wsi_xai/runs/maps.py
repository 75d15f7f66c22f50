"""From a MIL head's output to maps: one value a tile, NaN where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from napari_wsi_xai.models import MILOutput

__all__ = ["ALL_CLASSES", "maps_from_output"]

ALL_CLASSES = "all"
"""Class part of a map's name where a head has one score for all classes."""


def maps_from_output(
    output: MILOutput, index: NDArray[np.int64], shape: tuple[int, int], classes: tuple[str, ...]
) -> dict[str, NDArray[np.float32]]:
    """Lay tile scores and attention out on the grid.

    Parameters
    ----------
    output
        Of a bag of n tiles; scores (n, K), attention (n, K) or None.
    index
        (n, 2) row and column of those tiles.
    shape
        The grid's (rows, cols).
    classes
        Class names; a head with as many columns as classes gets one map a class.

    Returns
    -------
    ``"tile-scores/<class>"`` and ``"attention/<class>"`` to (rows, cols) float32.
    """
    maps = _columns("tile-scores", output.tile_scores, index, shape, classes)
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
    maps = {}
    for label, column in zip(labels, columns.T, strict=True):
        canvas = np.full(shape, np.nan, dtype=np.float32)
        canvas[index[:, 0], index[:, 1]] = column
        maps[f"{method}/{label}"] = canvas
    return maps

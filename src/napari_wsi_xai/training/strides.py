"""How far apart tiles lie, for heads that look at places and are not told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from napari_wsi_xai.training.bags import read_bag
from napari_wsi_xai.training.cohort import Cohort
from napari_wsi_xai.training.recipes import Recipe
from napari_wsi_xai.training.slide_tiles import SlideTiles

__all__ = ["tile_stride", "with_stride"]

LOOKED_AT = 3
"""Training slides whose tiles are looked at."""


def tile_stride(corners: Sequence[NDArray[np.int64]]) -> int | None:
    """Level-0 pixels from a tile to the next one of its row or column, as most tiles have it.

    Of two distances that are equally frequent it is the smaller, so that tiles which lie a
    fraction of a pixel off are not taken for one. Rows and columns of different parts of tissue
    need not lie on one grid: only tiles that share a row or a column are compared.

    Parameters
    ----------
    corners
        (n, 2) yx for each slide.

    Returns
    -------
    int or None
        None where no two tiles share a row or a column.
    """
    counts: Counter[int] = Counter()
    for places in corners:
        for axis in (0, 1):
            line, along = places[:, axis], places[:, 1 - axis]
            order = np.lexsort((along, line))
            apart, same = np.diff(along[order]), np.diff(line[order]) == 0
            counts.update(apart[same & (apart > 0)].tolist())
    return min(counts, key=lambda apart: (-counts[apart], apart), default=None)


def with_stride(
    recipe: Recipe,
    cohort: Cohort,
    indices: Sequence[int],
    tiles: Mapping[int, SlideTiles] | None = None,
) -> Recipe:
    """The recipe, with the ``downsample`` of ``sparseconvmil`` where it states none.

    It is the stride of the tiles, so that tiles side by side are neighbours in the convolutions.
    With the authors' own 10 pixels none would ever be.

    Parameters
    ----------
    recipe
        Of any head; those of others stay as they are.
    cohort, indices
        Training slides; the first :data:`LOOKED_AT` tell.
    tiles
        Of the slides, where an encoder is trained on them.
    """
    if recipe.architecture != "sparseconvmil" or "downsample" in recipe.head:
        return recipe
    looked_at = indices[:LOOKED_AT]
    if tiles is not None:
        corners = [tiles[index].corners for index in looked_at]
    else:
        coords = (read_bag(cohort.cases[index]).coords_level0 for index in looked_at)
        corners = [one.numpy() for one in coords if isinstance(one, Tensor)]
    stride = tile_stride(corners)
    return (
        recipe
        if stride is None
        else replace(recipe, head={**recipe.head, "downsample": float(stride)})
    )

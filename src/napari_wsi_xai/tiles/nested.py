"""Grids of several magnifications, nested so that every tile is covered exactly by its children."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.geometry import Mpp
from napari_wsi_xai.slides import Slide
from napari_wsi_xai.tiles.grid import TileGrid, check_tiles, level_for

__all__ = ["children_of", "mpp_ratios", "nested_grids", "parents_of"]

_SLACK = 1e-6

_MOST = 10_000
"""No ratio of two mpps can be larger: tiles are cut at 0.01 to 100 um/px."""


def mpp_ratios(mpps: Sequence[float]) -> tuple[int, ...]:
    """How many times finer each magnification is than the one before it.

    Parameters
    ----------
    mpps
        Micrometres per pixel, coarse to fine.

    Raises
    ------
    BadArgumentError
        A ratio is no whole number of at least 2.
    """
    if not mpps or not all(math.isfinite(mpp) and mpp > 0 for mpp in mpps):
        raise BadArgumentError(f"mpps={tuple(mpps)} must be one or more numbers above 0.")
    ratios = []
    for coarse, fine in pairwise(mpps):
        whole = round(min(coarse / fine, _MOST))
        if whole < 2 or abs(coarse / fine - whole) > _SLACK * whole:
            raise BadArgumentError(
                f"mpps={', '.join(f'{mpp:g}' for mpp in mpps)}: {coarse:g} / {fine:g} = "
                f"{coarse / fine:.6g} is no whole number of at least 2; give micrometres per "
                "pixel from coarse to fine, each a whole multiple of the next."
            )
        ratios.append(whole)
    return tuple(ratios)


def nested_grids(slide: Slide, tile_px: int, mpps: Sequence[float]) -> tuple[TileGrid, ...]:
    """Lay a grid a magnification on a slide; every tile is covered exactly by tiles of the next.

    With the ratio f of two magnifications the children of tile (row, column) are
    ``(row * f + i, column * f + j)`` for ``i, j < f``; corners are the same to the pixel. The
    coarsest grid covers the slide's bounds wholly, so its last tiles may overhang them.

    Parameters
    ----------
    slide
        The slide; its mpp must be known.
    tile_px
        Edge of a tile in pixels, at every magnification.
    mpps
        Micrometres per tile pixel, coarse to fine, each a whole multiple of the next.

    Raises
    ------
    MissingMppError
        The slide's mpp is not known.
    BadArgumentError
        A ratio of neighbours is no whole number of at least 2.
    GridError
        The finest tiles are much finer than the slide's level 0.
    """
    ratios = mpp_ratios(mpps)
    for mpp in mpps:
        check_tiles(tile_px, mpp, tile_px)
    slide_mpp = slide.require_mpp()
    finest, times = float(mpps[-1]), math.prod(ratios)
    rows, cols = _covering(slide, tile_px * finest * times, slide_mpp)
    grids = []
    for mpp, ratio in zip(mpps, (*ratios, 1), strict=True):
        scale = min(times * (finest / unit) for unit in slide_mpp)
        level = level_for(scale, slide, mpp)
        grids.append(
            TileGrid(
                shape=(rows, cols),
                tile_px=tile_px,
                mpp=float(mpp),
                stride_px=tile_px,
                origin_level0=slide.bounds.origin,
                slide_mpp=slide_mpp,
                level=level,
                downsample=slide.downsamples[level],
                finest_mpp=finest,
            )
        )
        rows, cols, times = rows * ratio, cols * ratio, times // ratio
    return tuple(grids)


def _covering(slide: Slide, tile_um: float, slide_mpp: Mpp) -> tuple[int, int]:
    """Rows and columns of tiles that cover the slide's bounds."""
    rows, cols = (
        max(1, math.ceil(extent * unit / tile_um - _SLACK))
        for extent, unit in zip(slide.bounds.shape, slide_mpp, strict=True)
    )
    return rows, cols


def children_of(parents: ArrayLike, factor: int) -> NDArray[np.int64]:
    """(row, column) of the ``factor`` x ``factor`` tiles of the next magnification in each tile.

    Parameters
    ----------
    parents
        (n, 2) row and column.
    factor
        Ratio of the two magnifications.

    Returns
    -------
    (n * factor**2, 2) int64, one parent after the other, its children row by row.
    """
    index = np.asarray(parents, dtype=np.int64).reshape(-1, 2)
    steps = np.stack(np.divmod(np.arange(factor * factor), factor), axis=1)
    return np.asarray((index[:, None] * factor + steps).reshape(-1, 2))


def parents_of(children: ArrayLike, factor: int) -> NDArray[np.int64]:
    """(row, column) of the coarser tile that each tile (n, 2) lies in."""
    return np.asarray(np.asarray(children, dtype=np.int64).reshape(-1, 2) // factor)

"""Bags of a stored run over several magnifications, as heads take them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.runs.zoom import ZoomRun
from napari_wsi_xai.runs.zoom_decide import side_by_side
from napari_wsi_xai.tiles import children_of, mpp_ratios

__all__ = ["Rows", "nested_rows", "pooled_rows", "side_by_side_rows"]

Rows = tuple[NDArray[np.generic], NDArray[np.int64] | None]
"""Descriptors (n, D) and corners (n, 2), yx, level-0 pixels."""


def nested_rows(run: ZoomRun) -> list[Rows]:
    """A bag a magnification; the children of row i are rows i * r to i * r + r - 1 of the next.

    The run must have read every tile. A coarsest tile is left out where it or a descendant of it
    has no descriptor, so that every row has all its children.
    """
    places = [run.levels[0].grid.indices(run.levels[0].tissue)]
    for ratio in mpp_ratios(run.mpps):
        places.append(children_of(places[-1], ratio))
    bags = [level.descriptors_of(index) for level, index in zip(run.levels, places, strict=True)]
    coarse = len(places[0])
    whole = np.all([np.isfinite(bag[:, 0]).reshape(coarse, -1).all(axis=1) for bag in bags], axis=0)
    rows: list[Rows] = []
    for level, index, bag in zip(run.levels, places, bags, strict=True):
        keep = np.repeat(whole, len(index) // max(coarse, 1))
        rows.append((bag[keep], level.grid.origins_level0(index[keep])))
    return rows


def pooled_rows(run: ZoomRun) -> list[Rows]:
    """A bag a magnification, of all its tiles that have a descriptor, row by row of the grid."""
    rows: list[Rows] = []
    for level in run.levels:
        index = level.grid.indices(level.tissue)
        bag = level.descriptors_of(index)
        usable = np.isfinite(bag[:, 0])
        rows.append((bag[usable], level.grid.origins_level0(index[usable])))
    return rows


def side_by_side_rows(run: ZoomRun) -> Rows:
    """The finest tiles, each descriptor followed by those of the coarser tiles around it."""
    blocks = list(side_by_side(run.levels, mpp_ratios(run.mpps), []))
    if not blocks:
        length = sum(level.store.features.shape[2] for level in run.levels)
        return np.empty((0, length), np.float32), np.empty((0, 2), np.int64)
    return (
        np.concatenate([features for features, _ in blocks]),
        np.concatenate([corners for _, corners in blocks]),
    )

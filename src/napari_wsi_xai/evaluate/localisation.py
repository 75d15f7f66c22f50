"""Does a tile map point at the ground truth? Area under the ROC curve over tiles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_wsi_xai.annotations import Annotation, cover_fraction
from napari_wsi_xai.errors import BadArgumentError

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from napari_wsi_xai.tiles import TileGrid

__all__ = ["Localisation", "localisation_auc", "tile_truth"]

CONFIDENCE = 0.95
"""Share of the bootstrap or of the random maps that an interval holds."""


@dataclass(frozen=True)
class Localisation:
    """How well a tile map separates tiles on the ground truth from the others.

    Attributes
    ----------
    auc
        Probability that a tile on the ground truth scores higher than another one, ties counting
        one half: 1 is perfect, 0.5 is chance.
    ci
        95 % interval of ``auc``, bootstrapped over tiles.
    n_positive, n_negative
        Tiles on and off the ground truth.
    random_auc
        Mean AUC of the same scores shuffled over the same tiles.
    random_ci
        Interval that holds 95 % of the shuffled maps.
    """

    auc: float
    ci: tuple[float, float]
    n_positive: int
    n_negative: int
    random_auc: float
    random_ci: tuple[float, float]


def tile_truth(
    geometries: Iterable[BaseGeometry | Annotation], grid: TileGrid
) -> NDArray[np.float32]:
    """Share of each tile that the ground truth covers.

    Parameters
    ----------
    geometries
        Ground-truth polygons in level-0 pixels, points as (x, y).
    grid
        The tiles.

    Returns
    -------
    ndarray
        (rows, cols) float32 in [0, 1].
    """
    fraction = cover_fraction(geometries, grid.origins_level0(), grid.tile_size_level0)
    return fraction.reshape(grid.shape).astype(np.float32)


def localisation_auc(
    tile_map: ArrayLike,
    truth_fraction: ArrayLike,
    tissue: ArrayLike | None = None,
    threshold: float = 0.5,
    n_boot: int = 1000,
    seed: int = 0,
) -> Localisation:
    r"""Area under the ROC curve of a tile map against ground truth.

    .. math:: AUC = P(s_+ > s_-) + P(s_+ = s_-) / 2

    for a tile on the ground truth with score :math:`s_+` and one off it with :math:`s_-`: the
    Mann-Whitney statistic over the number of pairs.

    Parameters
    ----------
    tile_map
        (rows, cols), one score a tile; NaN where there is none, these tiles are left out.
    truth_fraction
        (rows, cols) in [0, 1], share of each tile on the ground truth.
    tissue
        (rows, cols) bool, tiles to look at; all by default.
    threshold
        A tile counts as positive from this fraction on.
    n_boot
        Bootstrap samples, and as many random maps.
    seed
        Seed of both.

    Returns
    -------
    Localisation
        The AUC, its interval, the counts and the random maps beside it.

    Raises
    ------
    BadArgumentError
        The shapes differ, a limit is broken, or there is no positive or no negative tile.

    Notes
    -----
    The bootstrap draws positive and negative tiles separately and takes them as independent.
    Neighbouring tiles are not quite, so the interval is rather too narrow than too wide; it
    speaks of this slide, not of other ones.
    """
    scores, positive = _scored_tiles(tile_map, truth_fraction, tissue, threshold)
    if n_boot < 1:
        raise BadArgumentError(f"n_boot={n_boot} must be at least 1.")
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        raise BadArgumentError(
            f"Of {len(positive)} scored tiles {n_positive} lie on the ground truth and "
            f"{n_negative} do not (threshold={threshold}): an AUC needs at least one of each."
        )
    _, group = np.unique(scores, return_inverse=True)
    rng = np.random.default_rng(seed)
    on, off = group[positive], group[~positive]
    boots, shuffles = np.empty(n_boot), np.empty(n_boot)
    for i in range(n_boot):
        boots[i] = _auc(
            on[rng.integers(n_positive, size=n_positive)],
            off[rng.integers(n_negative, size=n_negative)],
        )
        shuffled = rng.permutation(group)
        shuffles[i] = _auc(shuffled[:n_positive], shuffled[n_positive:])
    return Localisation(
        _auc(on, off),
        _interval(boots),
        n_positive,
        n_negative,
        float(shuffles.mean()),
        _interval(shuffles),
    )


def _scored_tiles(
    tile_map: ArrayLike, truth_fraction: ArrayLike, tissue: ArrayLike | None, threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return scores (n,) of the tiles to look at and whether each is positive."""
    scores = np.asarray(tile_map, dtype=np.float64)
    truth = np.asarray(truth_fraction, dtype=np.float64)
    chosen = np.ones(scores.shape, bool) if tissue is None else np.asarray(tissue, dtype=bool)
    if not scores.shape == truth.shape == chosen.shape:
        raise BadArgumentError(
            f"The tile map {scores.shape}, the ground truth {truth.shape} and the tissue "
            f"{chosen.shape} must have one shape."
        )
    if not 0 < threshold <= 1:
        raise BadArgumentError(f"threshold={threshold} must be above 0 and at most 1.")
    chosen = chosen & ~np.isnan(scores)
    return scores[chosen], truth[chosen] >= threshold


def _auc(on: NDArray[np.int64], off: NDArray[np.int64]) -> float:
    """Mann-Whitney AUC of scores given as ranks 0, 1, ... with ties sharing one."""
    n_ranks = int(max(on.max(), off.max())) + 1
    n_on, n_off = np.bincount(on, minlength=n_ranks), np.bincount(off, minlength=n_ranks)
    lower = np.cumsum(n_off) - n_off
    return float(np.sum(n_on * (lower + n_off / 2)) / (len(on) * len(off)))


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the central interval of the values."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)

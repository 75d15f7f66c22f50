"""Figures of where a head looks on a slide: one number each, to follow from epoch to epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.evaluate import localisation_auc

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "FIGURES",
    "EpochFigures",
    "SlideFigures",
    "attention_entropy",
    "localisation",
    "map_correlation",
    "mean_figures",
    "share_on",
]

FEWEST_TILES = 3
"""A rank correlation of fewer tiles says nothing."""


@dataclass(frozen=True)
class SlideFigures:
    """Where a head looks on one slide at one moment; NaN where a figure is not defined.

    Attributes
    ----------
    entropy
        :func:`attention_entropy`: 0 where one tile has all attention, 1 where all have the same.
    correlation
        :func:`map_correlation` with the map before; NaN the first time.
    localisation
        Localisation AUC against the annotated tiles; NaN where nothing is annotated.
    excluded
        Share of attention on excluded regions; NaN where none are known.
    outside_tissue
        Share of attention outside tissue; NaN where the tissue is not known.
    probability
        Probability that the head gives to the slide's own label.
    top
        (row, column) of the tiles that it looks at most, best first.
    """

    entropy: float = math.nan
    correlation: float = math.nan
    localisation: float = math.nan
    excluded: float = math.nan
    outside_tissue: float = math.nan
    probability: float = math.nan
    top: tuple[tuple[int, int], ...] = ()


FIGURES = ("entropy", "correlation", "localisation", "excluded", "outside_tissue", "probability")
"""The numbers of :class:`SlideFigures`, in the order in which they are stored."""


@dataclass(frozen=True)
class EpochFigures:
    """Everything known of a training run at one moment.

    Attributes
    ----------
    epoch
        The epoch, counted from 1.
    step
        Optimisation steps done.
    metrics
        What training logged: ``"val_auc"``, ``"train_loss"`` and so on to the value.
    slides
        Figures of the watched slides by name.
    """

    epoch: int
    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    slides: dict[str, SlideFigures] = field(default_factory=dict)


def mean_figures(slides: Sequence[SlideFigures]) -> dict[str, float]:
    """Mean of each figure over the slides that have it; NaN where none has."""
    means = {}
    for name in FIGURES:
        values = [getattr(one, name) for one in slides if math.isfinite(getattr(one, name))]
        means[name] = math.fsum(values) / len(values) if values else math.nan
    return means


def attention_entropy(weights: ArrayLike) -> float:
    r"""Entropy of attention over tiles, between 0 and 1.

    .. math:: H = -\frac{1}{\ln n} \sum_i a_i \ln a_i, \qquad a_i = w_i / \sum_j w_j

    Parameters
    ----------
    weights
        Weights of any shape, none negative; NaN where there is no tile.

    Returns
    -------
    float
        0 where one tile has all the weight, 1 where all n have the same, and
        :math:`\ln k / \ln n` where k tiles share it evenly; NaN for fewer than two tiles or where
        all weights are 0.

    Raises
    ------
    BadArgumentError
        A weight is negative.
    """
    known = _weights(weights)
    total = known.sum()
    if known.size < 2 or not total > 0:
        return math.nan
    share = known / total
    share = share[share > 0]  # the smallest may have become 0
    entropy = -float(np.sum(share * np.log(share))) / math.log(known.size)
    return min(max(0.0, entropy), 1.0)


def map_correlation(now: ArrayLike, before: ArrayLike) -> float:
    """Spearman's rank correlation of two maps, over the tiles that both have a value for.

    Parameters
    ----------
    now, before
        Maps of one shape; NaN where there is no value.

    Returns
    -------
    float
        1 where the tiles come in the same order, -1 in the opposite; NaN for fewer than three
        tiles or where a map is constant.

    Raises
    ------
    BadArgumentError
        The shapes differ.
    """
    from scipy.stats import rankdata

    one, other = np.asarray(now, dtype=np.float64), np.asarray(before, dtype=np.float64)
    if one.shape != other.shape:
        raise BadArgumentError(f"maps of shapes {one.shape} and {other.shape} must have one shape.")
    both = np.isfinite(one) & np.isfinite(other)
    if np.count_nonzero(both) < FEWEST_TILES:
        return math.nan
    ranks = np.stack([rankdata(one[both]), rankdata(other[both])])
    ranks -= ranks.mean(axis=1, keepdims=True)
    lengths = np.sqrt(np.sum(ranks**2, axis=1))
    if not lengths.all():
        return math.nan
    return float(np.clip(ranks[0] @ ranks[1] / lengths.prod(), -1.0, 1.0))


def localisation(values: ArrayLike, truth_fraction: ArrayLike | None) -> float:
    """Localisation AUC of a map, as :func:`napari_wsi_xai.evaluate.localisation_auc` has it.

    Parameters
    ----------
    values
        (rows, cols), NaN where there is no tile.
    truth_fraction
        (rows, cols) in [0, 1], share of each tile on the ground truth; None where there is none.

    Returns
    -------
    float
        NaN where nothing is annotated, or all scored tiles lie on one side.
    """
    if truth_fraction is None:
        return math.nan
    try:
        return localisation_auc(values, truth_fraction, n_boot=1).auc
    except BadArgumentError:
        scores, truth = np.asarray(values), np.asarray(truth_fraction)
        if scores.shape != truth.shape:
            raise
        return math.nan


def share_on(weights: ArrayLike, fraction: ArrayLike | None) -> float:
    r"""Share of attention on a region: :math:`\sum_i w_i f_i / \sum_i w_i`.

    Parameters
    ----------
    weights
        Weights, none negative; NaN where there is no tile.
    fraction
        Same shape, share of each tile that the region covers, in [0, 1]; None where no region is
        known, and NaN is returned.
    """
    if fraction is None:
        return math.nan
    share = np.asarray(fraction, dtype=np.float64)
    canvas = np.asarray(weights, dtype=np.float64)
    if share.shape != canvas.shape:
        raise BadArgumentError(
            f"weights {canvas.shape} and region {share.shape} must have one shape."
        )
    known = _weights(canvas)
    total = known.sum()
    if not total > 0:
        return math.nan
    return float(min(max(np.sum(known * share[np.isfinite(canvas)]) / total, 0.0), 1.0))


def _weights(values: ArrayLike) -> NDArray[np.float64]:
    canvas = np.asarray(values, dtype=np.float64)
    known = canvas[np.isfinite(canvas)]
    if known.size and known.min() < 0:
        raise BadArgumentError(f"a weight is {known.min():.3g}: weights must not be negative.")
    return known

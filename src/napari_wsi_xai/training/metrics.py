"""Figures of a classifier on slides, with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.training.wording import listed

__all__ = ["Estimate", "Metrics", "classification_metrics"]

CONFIDENCE = 0.95
"""Share of the bootstrap that an interval holds."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval.

    Attributes
    ----------
    value
        None where it is not defined.
    low, high
        95 % interval; None where there is none.
    note
        Why something is not defined, or what the interval leaves out.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return f"not defined ({self.note})"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Metrics:
    """How well slides are classified.

    Attributes
    ----------
    auc
        Area under the ROC curve; for more than two classes the mean of one class against the
        others over all of them.
    accuracy
        Share of slides whose most probable class is the right one.
    weighted_f1
        Mean F1 of the classes, weighted by their slides.
    confusion
        ``confusion[true][predicted]`` slides.
    classes
        Names of the classes.
    slides, patients
        How many there are.
    """

    auc: Estimate
    accuracy: Estimate
    weighted_f1: Estimate
    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]
    slides: int
    patients: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **asdict(self),
            "confusion": [list(row) for row in self.confusion],
            "classes": list(self.classes),
        }


def classification_metrics(
    labels: ArrayLike,
    probabilities: ArrayLike,
    seed: int = 0,
    *,
    patients: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    n_boot: int = 1000,
) -> Metrics:
    r"""AUC, accuracy and weighted F1, each with a bootstrap interval over patients.

    .. math::
        AUC_c = P(p_c^+ > p_c^-) + P(p_c^+ = p_c^-) / 2, \qquad
        F1_c = \frac{2 TP_c}{2 TP_c + FP_c + FN_c}

    for slides of class c (+) and others (-); :math:`F1_c` is 0 where class c has neither slides
    nor predictions. The numbers are those of scikit-learn's ``roc_auc_score`` (``"ovr"``,
    ``"macro"``), ``accuracy_score`` and ``f1_score`` (``"weighted"``).

    Parameters
    ----------
    labels
        (n,) class of every slide, 0 to C - 1.
    probabilities
        (n, C), or (n,) of class 1 for two classes; need not sum to one.
    seed
        Seed of the bootstrap.
    patients
        (n,) whom each slide is of; by default every slide is a patient.
    classes
        Names of the classes, by default numbers.
    n_boot
        Bootstrap samples; 0 for no intervals.

    Raises
    ------
    BadArgumentError
        Shapes do not agree, a label is no class, or a probability is not finite.

    Notes
    -----
    A bootstrap sample draws as many patients as there are, with all their slides, so slides of
    one patient do not pass for independent. The interval runs from the 2.5 % to the 97.5 % point.
    Samples that lack a class have no AUC and are left out of its interval. Where every sample is
    perfect, the interval is a point: with few patients that is no proof.
    """
    truth, scores = _checked(labels, probabilities)
    if n_boot < 0 or seed < 0:
        raise BadArgumentError(f"n_boot={n_boot} and seed={seed} must be at least 0.")
    count = scores.shape[1]
    names = tuple(map(str, range(count) if classes is None else classes))
    if len(names) != count:
        raise BadArgumentError(f"classes={listed(names)} must be {count} names, one a column.")
    who = _patient_numbers(patients, len(truth))
    weights = _bootstrap(who, n_boot, seed)
    predicted = scores.argmax(axis=1)
    tables = _confusions(truth, predicted, count, weights)
    aucs = _aucs(truth, scores, weights)
    few = "" if who.max() > 0 else "one patient, so there is no interval"
    return Metrics(
        auc=_estimate(aucs, few, _lacking(truth, names)),
        accuracy=_estimate(np.trace(tables, axis1=1, axis2=2) / tables.sum(axis=(1, 2)), few),
        weighted_f1=_estimate(_weighted_f1(tables), few),
        confusion=tuple(tuple(int(cell) for cell in row) for row in tables[0]),
        classes=names,
        slides=len(truth),
        patients=int(who.max()) + 1,
    )


def _checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.int64], Array]:
    scores = np.asarray(probabilities, dtype=np.float64)
    if scores.ndim == 1:
        scores = np.stack([1 - scores, scores], axis=1)
    given = np.asarray(labels)
    fits = given.ndim == 1 and scores.ndim == 2 and len(given) == len(scores) > 0
    if not fits or scores.shape[1] < 2:
        raise BadArgumentError(
            f"labels {given.shape} and probabilities {np.shape(probabilities)} must be (n,) and "
            "(n, C) of one n above 0 and at least 2 classes."
        )
    if given.dtype.kind not in "biuf":
        raise BadArgumentError(f"labels={listed(given.tolist())} must be numbers of classes.")
    truth = given.astype(np.int64)
    if (truth != given).any() or truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise BadArgumentError(
            f"labels={listed(np.unique(given).tolist())} must be from 0 to {scores.shape[1] - 1}, "
            "one a column of the probabilities."
        )
    bad = int((~np.isfinite(scores)).any(axis=1).sum())
    if bad:
        raise BadArgumentError(f"probabilities of {bad} of {len(scores)} slides are not finite.")
    return truth, scores


def _patient_numbers(patients: Sequence[str] | None, slides: int) -> NDArray[np.int64]:
    """(n,) number of each slide's patient, 0, 1, ..."""
    if patients is None:
        return np.arange(slides)
    if len(patients) != slides:
        raise BadArgumentError(f"patients name {len(patients)} of {slides} slides: name all.")
    return np.unique(np.asarray(patients, dtype=str), return_inverse=True)[1].astype(np.int64)


def _bootstrap(who: NDArray[np.int64], n_boot: int, seed: int) -> Array:
    """(1 + B, n) how often a slide counts: once each in row 0, then in every sample."""
    patients = int(who.max()) + 1
    samples = n_boot if patients > 1 else 0
    share = np.full(patients, 1 / patients)
    drawn = np.random.default_rng(seed).multinomial(patients, share, size=samples)
    return np.concatenate([np.ones((1, len(who))), drawn[:, who]]).astype(np.float64)


def _confusions(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], count: int, weights: Array
) -> Array:
    """(1 + B, C, C) slides by true and predicted class."""
    cells = np.eye(count * count)[truth * count + predicted]
    return np.asarray((weights @ cells).reshape(-1, count, count))


def _weighted_f1(tables: Array) -> Array:
    """(1 + B,) F1 of the classes, weighted by their slides."""
    hits = np.diagonal(tables, axis1=1, axis2=2)
    slides, predictions = tables.sum(axis=2), tables.sum(axis=1)
    f1 = 2 * hits / np.maximum(slides + predictions, 1)
    return np.asarray((f1 * slides).sum(axis=1) / slides.sum(axis=1))


def _aucs(truth: NDArray[np.int64], scores: Array, weights: Array) -> Array:
    """(1 + B,) AUC, NaN where a class is lacking."""
    count = scores.shape[1]
    which = [1] if count == 2 else range(count)
    # A class without slides leaves the others' mean without a meaning, so its NaN stays in it.
    return np.asarray(np.mean([_auc(truth == c, scores[:, c], weights) for c in which], axis=0))


def _auc(positive: NDArray[np.bool_], scores: Array, weights: Array) -> Array:
    """Mann-Whitney AUC of one class against the others, ties counting one half."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    on = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    off = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    below = np.cumsum(off, axis=1) - off
    pairs = on.sum(axis=1) * off.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray((on * (below + off / 2)).sum(axis=1) / np.where(pairs, pairs, np.nan))


def _lacking(truth: NDArray[np.int64], names: tuple[str, ...]) -> str:
    """Why there is no AUC; empty where there is one."""
    there = np.unique(truth)
    if len(there) == len(names):
        return ""
    if len(there) == 1:
        return f"all {len(truth)} slides are {names[there[0]]}"
    lacking = [name for number, name in enumerate(names) if number not in there]
    return f"no slide is {listed(lacking)}"


def _estimate(values: Array, few: str, undefined: str = "") -> Estimate:
    """Row 0 is the figure, the others are its bootstrap."""
    if undefined:
        return Estimate(None, note=undefined)
    value, samples = float(values[0]), values[1:]
    defined = samples[~np.isnan(samples)]
    if not len(defined):
        return Estimate(value, note=few)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    left = len(samples) - len(defined)
    note = f"{left} of {len(samples)} bootstrap samples lack a class" if left else ""
    return Estimate(value, float(low), float(high), note)

"""Figures of a classifier on slides, with intervals over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

__all__ = ["Estimate", "Metrics", "classification_metrics"]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; ``value`` is None where it is not defined, ``note`` why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Metrics:
    """How well slides are classified; ``confusion[true][predicted]`` counts slides."""

    auc: Estimate
    accuracy: Estimate
    weighted_f1: Estimate
    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]
    slides: int
    patients: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        raise NotImplementedError


def classification_metrics(
    labels: ArrayLike,
    probabilities: ArrayLike,
    seed: int = 0,
    *,
    patients: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    n_boot: int = 1000,
) -> Metrics:
    """AUC, accuracy and weighted F1, each with a bootstrap interval over patients."""
    raise NotImplementedError

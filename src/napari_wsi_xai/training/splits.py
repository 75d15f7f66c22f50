"""Splits of a cohort by patient, stratified by class, seeded."""

from __future__ import annotations

from dataclasses import dataclass

from napari_wsi_xai.training.cohort import Cohort

__all__ = ["Split", "check_patients", "given", "hold_out", "k_fold", "repeated"]


@dataclass(frozen=True)
class Split:
    """Cases to train with, to choose the epoch with, and to test with.

    Attributes
    ----------
    name
        For people and folder names: "hold-out", "fold 1 of 5".
    train, val, test
        Indices of cases, ascending; ``val`` may be empty.
    """

    name: str
    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def hold_out(cohort: Cohort, *, test: float = 0.2, val: float = 0.15, seed: int = 0) -> Split:
    """Put a share of every class's patients aside for testing, and one for validation."""
    raise NotImplementedError


def k_fold(cohort: Cohort, k: int = 5, *, val: float = 0.15, seed: int = 0) -> tuple[Split, ...]:
    """Every case is in the test side of exactly one of ``k`` splits."""
    raise NotImplementedError


def repeated(
    cohort: Cohort, k: int = 5, times: int = 3, *, val: float = 0.15, seed: int = 0
) -> tuple[Split, ...]:
    """Several cross-validations with seeds of their own, one after the other."""
    raise NotImplementedError


def given(cohort: Cohort, *, val: float = 0.15, seed: int = 0) -> Split:
    """The split that the cohort states; ``val`` is drawn from training where it states none."""
    raise NotImplementedError


def check_patients(cohort: Cohort, split: Split) -> None:
    """Raise where a patient is on two sides of the split, or a case is."""
    raise NotImplementedError

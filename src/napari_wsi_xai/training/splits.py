"""Splits of a cohort by patient, stratified by class, seeded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from napari_wsi_xai.errors import BadArgumentError, CohortError
from napari_wsi_xai.training.cohort import SIDES, Cohort
from napari_wsi_xai.training.wording import listed

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
    """Put a share of every class's patients aside for testing, and one for validation.

    A patient with slides of several classes counts for the rarest of them. Of n patients of a
    class ``test * n``, rounded and at least one, are drawn for testing; then as many of all n for
    validation. Every side has patients of every class.

    Parameters
    ----------
    cohort
        The slides.
    test, val
        Share of the patients, above 0 and below 1 together; ``val`` may be 0.
    seed
        Seed of the draw; the same one gives the same split.

    Raises
    ------
    BadArgumentError
        A share or the seed is out of its limits.
    CohortError
        A class has too few patients for all sides; the message names it.
    """
    _check_share("test", test)
    _check_seed(seed)
    if not 0 <= val < 1 - test:
        raise BadArgumentError(
            f"val={val} must be at least 0 and, with test={test}, below {1 - test:g}."
        )
    rng = np.random.default_rng(seed)
    aside, rest = _draw(cohort, range(len(cohort)), test, rng)
    chosen, train = _draw(cohort, rest, val / (1 - test), rng)
    return _made(cohort, Split("hold-out", train, chosen, aside))


def k_fold(cohort: Cohort, k: int = 5, *, val: float = 0.15, seed: int = 0) -> tuple[Split, ...]:
    """Cross-validation: every case is in the test side of exactly one of ``k`` splits.

    Folds are those of scikit-learn's ``StratifiedGroupKFold``: where the patients of a class have
    slides of that class alone, two folds differ in it by no more than one patient's slides.

    Parameters
    ----------
    cohort
        The slides.
    k
        Number of folds, at least 2.
    val
        Share of the patients outside a fold that is drawn for validation, as :func:`hold_out`
        does; 0 for none.
    seed
        Seed of folds and draws.

    Raises
    ------
    BadArgumentError
        ``k``, ``val`` or ``seed`` is out of its limits.
    CohortError
        A class has fewer than ``k`` patients, or too few for validation; the message names it.
    """
    if k < 2:
        raise BadArgumentError(f"k={k} must be at least 2 folds.")
    _check_seed(seed)
    if val:
        _check_share("val", val)
    of_class = _patients_of_classes(cohort, range(len(cohort)))
    few = [f"{name} ({len(found)})" for name, found in of_class.items() if len(found) < k]
    if few:
        raise CohortError(
            f"too few patients of {listed(few)} for {k} folds: every class needs one a fold; take "
            "fewer folds."
        )
    splits = []
    for number, test in enumerate(_folds(cohort, k, seed), 1):
        rest = sorted(set(range(len(cohort))) - set(test))
        chosen, train = _draw(cohort, rest, val, np.random.default_rng([seed, number]))
        splits.append(_made(cohort, Split(f"fold {number} of {k}", train, chosen, test)))
    return tuple(splits)


def repeated(
    cohort: Cohort, k: int = 5, times: int = 3, *, val: float = 0.15, seed: int = 0
) -> tuple[Split, ...]:
    """Several cross-validations one after the other, with seeds ``seed``, ``seed + 1``, ...

    Every case is in the test side of exactly ``times`` splits.

    Raises
    ------
    BadArgumentError, CohortError
        As :func:`k_fold`; ``times`` is below 1.
    """
    if times < 1:
        raise BadArgumentError(f"times={times} must be at least 1.")
    return tuple(
        replace(split, name=f"repeat {turn + 1} of {times}, {split.name}")
        for turn in range(times)
        for split in k_fold(cohort, k, val=val, seed=seed + turn)
    )


def given(cohort: Cohort, *, val: float = 0.15, seed: int = 0) -> Split:
    """The split that the cohort states.

    Where it states no validation, a share ``val`` of the training patients is drawn for that, as
    :func:`hold_out` does; 0 for none.

    Raises
    ------
    CohortError
        The cohort states no split, none to train or to test with, or one with a patient on
        several sides.
    """
    _check_seed(seed)
    if val:
        _check_share("val", val)
    sides = {
        side: tuple(i for i, case in enumerate(cohort.cases) if case.split == side)
        for side in SIDES
    }
    empty = [side for side in ("train", "test") if not sides[side]]
    if empty:
        raise CohortError(
            f"the cohort states no slides to {' and none to '.join(empty)} with: fill the column "
            "split, or let a split be drawn."
        )
    split = Split("given", sides["train"], sides["val"], sides["test"])
    if not split.val and val:
        chosen, train = _draw(cohort, split.train, val, np.random.default_rng(seed))
        split = replace(split, train=train, val=chosen)
    return _made(cohort, split)


def check_patients(cohort: Cohort, split: Split) -> None:
    """Require that no patient, and so no case, is on two sides of a split.

    Raises
    ------
    CohortError
        One is; the message names the patients and their sides. Or the split has a case twice, or
        one that the cohort has not.
    """
    _check_cases(cohort, split)
    sides: dict[str, list[str]] = {}
    for side in SIDES:
        for patient in {cohort.cases[index].patient for index in getattr(split, side)}:
            sides.setdefault(patient, []).append(side)
    several = [f"{who} ({', '.join(on)})" for who, on in sorted(sides.items()) if len(on) > 1]
    if several:
        raise CohortError(
            f"the split {split.name!r} has patients on several sides: {listed(several)}; all "
            "slides of a patient belong on one."
        )


def _check_cases(cohort: Cohort, split: Split) -> None:
    every = [index for side in SIDES for index in getattr(split, side)]
    beyond = sorted({index for index in every if not 0 <= index < len(cohort)})
    if beyond:
        raise CohortError(
            f"the split {split.name!r} has the cases {listed(beyond)}: those of the cohort are 0 "
            f"to {len(cohort) - 1}."
        )
    for side in SIDES:
        counts = Counter(getattr(split, side))
        twice = [cohort.cases[index].slide for index, count in counts.items() if count > 1]
        if twice:
            raise CohortError(
                f"the split {split.name!r} has {listed(twice)} several times to {side} with: once "
                "is enough."
            )


def _made(cohort: Cohort, split: Split) -> Split:
    check_patients(cohort, split)
    return split


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise BadArgumentError(f"{name}={share} must be a share above 0 and below 1.")


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise BadArgumentError(f"seed={seed} must be at least 0 and below 2**32.")


def _folds(cohort: Cohort, k: int, seed: int) -> list[tuple[int, ...]]:
    from sklearn.model_selection import StratifiedGroupKFold

    folds = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    cases = np.zeros(len(cohort))
    parts = folds.split(cases, cohort.labels, groups=np.array(cohort.patients))
    return [tuple(int(index) for index in np.sort(test)) for _, test in parts]


def _patients_of_classes(cohort: Cohort, indices: Iterable[int]) -> dict[str, list[str]]:
    """Patients among these cases, each under one class: the rarest in the cohort of its own."""
    slides = np.bincount(cohort.labels, minlength=len(cohort.classes))
    rarest: dict[str, int] = {}
    for index in indices:
        case = cohort.cases[index]
        known = rarest.get(case.patient, case.label)
        rarest[case.patient] = min(known, case.label, key=lambda label: (slides[label], label))
    return {
        name: [patient for patient, label in rarest.items() if label == number]
        for number, name in enumerate(cohort.classes)
    }


def _draw(
    cohort: Cohort, indices: Sequence[int], share: float, rng: np.random.Generator
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cases of a share of every class's patients, and the others; at least one patient in each."""
    if not share:
        return (), tuple(indices)
    drawn: set[str] = set()
    for name, patients in _patients_of_classes(cohort, indices).items():
        if len(patients) < 2:
            raise CohortError(
                f"too few patients of {name} ({len(patients)}) to put some aside: at least 2 are "
                "needed; add patients, or take none for validation (val=0)."
            )
        wanted = max(1, math.floor(share * len(patients) + 0.5))
        order = rng.permutation(len(patients))[: min(wanted, len(patients) - 1)]
        drawn |= {patients[place] for place in order}
    taken = tuple(i for i in indices if cohort.cases[i].patient in drawn)
    return taken, tuple(i for i in indices if cohort.cases[i].patient not in drawn)

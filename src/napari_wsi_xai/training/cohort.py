"""A cohort: slides with one label each, the patients they are of, and their features."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import BadArgumentError, CohortError
from napari_wsi_xai.slides import open_slide
from napari_wsi_xai.slides.resolution import mpp_from_user
from napari_wsi_xai.training.cohort_features import feature_key, find_features, kind_of_features
from napari_wsi_xai.training.cohort_table import SIDE_WORDS, check_rows, class_names, read_rows
from napari_wsi_xai.training.wording import listed

__all__ = ["SIDES", "Case", "Cohort", "check_cohort", "read_cohort", "write_cohort"]

SIDES = ("train", "val", "test")


@dataclass(frozen=True)
class Case:
    """One slide of a cohort.

    Attributes
    ----------
    slide
        Its name.
    label
        Its class, an index into the cohort's classes.
    patient
        Whom it is of.
    features
        A run store, an ``.h5`` or ``.pt`` file of features, or the slide itself.
    split
        "train", "val" or "test" where the cohort says.
    annotation
        File of outlines, where there is one.
    mpp
        Micrometres per pixel of a slide that does not state them; where it does, that is taken.
    """

    slide: str
    label: int
    patient: str
    features: Path
    split: str | None = None
    annotation: Path | None = None
    mpp: float | None = None

    @property
    def kind(self) -> str:
        """What the features are: "run", "h5", "pt" or "slide"."""
        return kind_of_features(self.features)

    def missing_mpp(self) -> float | None:
        """``mpp`` where the slide does not state its own; what ``open_slide`` is to be told."""
        if self.mpp is None:
            return None
        with open_slide(self.features) as slide:
            return self.mpp if slide.mpp is None else None


@dataclass(frozen=True)
class Cohort:
    """Slides to train on and to test with.

    Attributes
    ----------
    cases
        The slides, in the order of the file.
    classes
        Names of the classes; a case's label is an index into them.
    """

    cases: tuple[Case, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(n,) int64 class of every case."""
        return np.array([case.label for case in self.cases], dtype=np.int64)

    @property
    def patients(self) -> tuple[str, ...]:
        """Patient of every case."""
        return tuple(case.patient for case in self.cases)

    def counts(self, indices: Iterable[int] | None = None) -> dict[str, int]:
        """Number of slides of each class, among ``indices`` or all."""
        chosen = range(len(self.cases)) if indices is None else indices
        found = Counter(self.cases[index].label for index in chosen)
        return {name: found[number] for number, name in enumerate(self.classes)}

    def with_mpp(self, mpp: float | None) -> Cohort:
        """The same slides, those that do not state micrometres per pixel having so many.

        Raises
        ------
        BadArgumentError
            ``mpp`` is out of its limits.
        """
        if mpp is None:
            return self
        mpp_from_user(mpp)
        return replace(self, cases=tuple(replace(case, mpp=mpp) for case in self.cases))

    @property
    def content_hash(self) -> str:
        """``"sha256:..."`` of slides, labels, patients, splits and classes; not of places."""
        rows = [(case.slide, case.label, case.patient, case.split) for case in self.cases]
        text = json.dumps([self.classes, rows]).encode()
        return "sha256:" + hashlib.sha256(text).hexdigest()


def read_cohort(
    path: str | os.PathLike[str],
    features: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    least: int = 2,
) -> Cohort:
    """Read a cohort and find the features of its slides.

    Parameters
    ----------
    path
        A CSV with the columns slide, label, patient and, where wanted, split (train, val, test)
        and annotation (a file, relative to the CSV's folder).
    features
        Folder of run stores ``<slide>.wsixai.zarr``, of CLAM or TRIDENT ``<slide>.h5`` files, of
        ``<slide>.pt`` bags (also in ``h5_files`` and ``pt_files``), or of slides. Where a slide
        has several, the first of these is taken; a slide may also be named by its place in the
        folder (``site/a.svs``).
    classes
        Names of the classes, in the order of a model's outputs; by default the labels, sorted.
    least
        Fewest slides that every class must have.

    Raises
    ------
    CohortError
        The file cannot be read or lacks a column or value; a slide has two rows, no features or
        an annotation that is not there; a label is no class; a patient is on two sides of the
        split; a class has fewer slides than ``least``. The message names them.
    """
    if least < 1:
        raise BadArgumentError(f"least={least} must be at least 1.")
    path = Path(path)
    rows = read_rows(path)
    check_rows(rows, path)
    found = find_features(Path(features), [row["slide"] for row in rows])
    names = class_names(rows, path, classes)
    cases = tuple(
        Case(
            slide=feature_key(row["slide"]),
            label=names.index(row["label"]),
            patient=row["patient"],
            features=found[row["slide"]],
            split=SIDE_WORDS.get(row["split"].lower()),
            annotation=path.parent / row["annotation"] if row["annotation"] else None,
        )
        for row in rows
    )
    return check_cohort(Cohort(cases, names), least)


def write_cohort(cohort: Cohort, path: str | os.PathLike[str]) -> Path:
    """Write a cohort as the CSV that :func:`read_cohort` reads; features are not part of it.

    Annotations in the CSV's folder or below are written relative to it.
    """
    path = Path(path)
    folder = path.parent.resolve()
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("slide", "label", "patient", "split", "annotation"))
    for case in cohort.cases:
        outline = "" if case.annotation is None else case.annotation.resolve()
        if isinstance(outline, Path) and outline.is_relative_to(folder):
            outline = outline.relative_to(folder)
        name = cohort.classes[case.label]
        rows.writerow((case.slide, name, case.patient, case.split or "", outline))
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def check_cohort(cohort: Cohort, least: int = 2) -> Cohort:
    """The cohort itself, once it is known to be sound.

    Raises
    ------
    CohortError
        A slide comes twice, an annotation is missing, a patient is on several sides of the given
        split, or a class has fewer slides than ``least``; the message names them.
    """
    counts = Counter(case.slide for case in cohort.cases)
    twice = [slide for slide, count in counts.items() if count > 1]
    if twice:
        raise CohortError(f"{listed(twice)} come several times: a slide has one place and label.")
    _check_annotations(cohort)
    _check_sides(cohort)
    _check_counts(cohort, least)
    return cohort


def _check_annotations(cohort: Cohort) -> None:
    lacking = [
        f"{case.annotation} of {case.slide}"
        for case in cohort.cases
        if case.annotation and not case.annotation.is_file()
    ]
    if lacking:
        raise CohortError(f"annotation files are missing: {listed(lacking)}.")


def _check_sides(cohort: Cohort) -> None:
    """Raise where the given split has one patient on several sides."""
    sides: dict[str, set[str]] = {}
    for case in cohort.cases:
        if case.split:
            sides.setdefault(case.patient, set()).add(case.split)
    several = [
        f"{patient} ({', '.join(side for side in SIDES if side in of)})"
        for patient, of in sides.items()
        if len(of) > 1
    ]
    if several:
        raise CohortError(
            f"the given split has patients on several sides: {listed(several)}; all slides of a "
            "patient belong on one."
        )


def _check_counts(cohort: Cohort, least: int) -> None:
    few = [f"{name} ({count})" for name, count in cohort.counts().items() if count < least]
    if few:
        raise CohortError(
            f"too few slides of {listed(few)}: every class needs at least {least}; add slides or "
            "leave the class out."
        )

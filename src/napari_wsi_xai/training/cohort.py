"""A cohort: slides with one label each, the patients they are of, and their features."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import BadArgumentError, CohortError
from napari_wsi_xai.training.cohort_features import feature_key, find_features, kind_of_features
from napari_wsi_xai.training.wording import listed

__all__ = ["SIDES", "Case", "Cohort", "read_cohort"]

SIDES = ("train", "val", "test")

_SIDE_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

_NEEDED = ("slide", "label", "patient")


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
    """

    slide: str
    label: int
    patient: str
    features: Path
    split: str | None = None
    annotation: Path | None = None

    @property
    def kind(self) -> str:
        """What the features are: "run", "h5", "pt" or "slide"."""
        return kind_of_features(self.features)


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
        has several, the first of these is taken.
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
    rows = _read_rows(path)
    _check_rows(rows, path)
    found = find_features(Path(features), [row["slide"] for row in rows])
    names = _class_names(rows, path, classes)
    cases = tuple(
        Case(
            slide=feature_key(row["slide"]),
            label=names.index(row["label"]),
            patient=row["patient"],
            features=found[row["slide"]],
            split=_SIDE_WORDS.get(row["split"].lower()),
            annotation=path.parent / row["annotation"] if row["annotation"] else None,
        )
        for row in rows
    )
    cohort = Cohort(cases, names)
    _check_annotations(cohort)
    _check_sides(cohort)
    _check_counts(cohort, least)
    return cohort


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of the file, every wanted column there (empty where the file lacks it)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CohortError(f"there is no cohort file at {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CohortError(f"{path} cannot be read as a CSV in UTF-8: {error}.") from error
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = [name.strip().lower() for name in next(rows, [])]
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise CohortError(
            f"{path} has no column {listed(missing)}: its columns are {listed(columns)}; "
            "slide, label and patient are needed, split and annotation may follow."
        )
    empty = dict.fromkeys((*_NEEDED, "split", "annotation"), "")
    read = [
        {
            **empty,
            **dict(zip(columns, (value.strip() for value in row), strict=False)),
            "line": str(rows.line_num),
        }
        for row in rows
        if any(value.strip() for value in row)
    ]
    if not read:
        raise CohortError(f"{path} has a header and no slides.")
    return read


def _check_rows(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Raise where a row lacks a value, a slide comes twice or a split is no side."""
    for column in _NEEDED:
        lines = [row["line"] for row in rows if not row[column]]
        if lines:
            raise CohortError(f"{path} has no {column} on line {listed(lines)}.")
    counts = Counter(feature_key(row["slide"]) for row in rows)
    twice = [slide for slide, count in counts.items() if count > 1]
    if twice:
        raise CohortError(
            f"{path} has several rows for {listed(twice)}: a slide has one row and one label."
        )
    sides = [row["split"] for row in rows]
    wrong = sorted({side for side in sides if side and side.lower() not in _SIDE_WORDS})
    if wrong:
        raise CohortError(f"{path} has the split {listed(wrong)}: train, val or test is possible.")
    without = [row["slide"] for row in rows if not row["split"]]
    if any(sides) and without:
        raise CohortError(
            f"{path} states a split, but not of {listed(without)}: state it of all slides or none."
        )


def _class_names(
    rows: Sequence[Mapping[str, str]], path: Path, classes: Sequence[str] | None
) -> tuple[str, ...]:
    """Classes as given, or the labels: whole numbers by size, others by the alphabet."""
    labels = {row["label"] for row in rows}
    if classes is None:
        whole = all(label.isdecimal() for label in labels)
        found = sorted(labels, key=lambda label: (int(label) if whole else 0, label))
    else:
        found = [str(name) for name in classes]
        if len(set(found)) < len(found):
            raise BadArgumentError(f"classes={listed(found)} must be different names.")
        others = sorted(labels - set(found))
        if others:
            slides = [row["slide"] for row in rows if row["label"] in others]
            raise CohortError(
                f"{path} has the label {listed(others)} (slides {listed(slides)}): the classes "
                f"are {listed(found)}."
            )
    if len(found) < 2:
        raise CohortError(
            f"{path} has the one label {listed(found)}: at least two classes are needed."
        )
    return tuple(found)


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

"""The CSV of a cohort: what people write, row by row."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from napari_wsi_xai.errors import BadArgumentError, CohortError
from napari_wsi_xai.training.cohort_features import feature_key
from napari_wsi_xai.training.wording import listed

__all__ = ["SIDE_WORDS", "check_rows", "class_names", "read_rows"]

SIDE_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

_NEEDED = ("slide", "label", "patient")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of the file, every wanted column there (empty where the file lacks it)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CohortError(f"there is no cohort file at {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CohortError(f"{path} cannot be read as a CSV in UTF-8: {error}.") from error
    try:
        return _parsed(text, path)
    except csv.Error as error:
        raise CohortError(f"{path} cannot be read as a CSV: {error}.") from error


def _parsed(text: str, path: Path) -> list[dict[str, str]]:
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns = [name.strip().lower() for name in next(rows, [])]
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise CohortError(
            f"{path} has no column {listed(missing)}: its columns are {listed(columns)}; "
            "slide, label and patient are needed, split and annotation may follow."
        )
    empty = dict.fromkeys((*_NEEDED, "split", "annotation"), "")
    twice = [name for name in empty if columns.count(name) > 1]
    if twice:
        raise CohortError(f"{path} has several columns {listed(twice)}: leave one of each.")
    read, long = [], []
    for row in rows:
        values = [value.strip() for value in row]
        if any(values[len(columns) :]):
            long.append(rows.line_num)
        elif any(values):
            cells = dict(zip(columns, values, strict=False))
            read.append({**empty, **cells, "line": str(rows.line_num)})
    if long:
        raise CohortError(
            f"{path} has more values than its {len(columns)} columns on line {listed(long)}: put "
            f'a value that holds {delimiter!r} into quotes, "so".'
        )
    if not read:
        raise CohortError(f"{path} has a header and no slides.")
    return read


def check_rows(rows: Sequence[Mapping[str, str]], path: Path) -> None:
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
    wrong = sorted({side for side in sides if side and side.lower() not in SIDE_WORDS})
    if wrong:
        raise CohortError(f"{path} has the split {listed(wrong)}: train, val or test is possible.")
    without = [row["slide"] for row in rows if not row["split"]]
    if any(sides) and without:
        raise CohortError(
            f"{path} states a split, but not of {listed(without)}: state it of all slides or none."
        )


def class_names(
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

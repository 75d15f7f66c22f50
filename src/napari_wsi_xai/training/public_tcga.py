"""The Cancer Genome Atlas: slides of a manifest, labels of the clinical table."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from napari_wsi_xai.errors import CohortError, WsiXaiWarning
from napari_wsi_xai.slides.sources import slide_name
from napari_wsi_xai.training.cohort import Case, Cohort, check_cohort
from napari_wsi_xai.training.public_files import missing_files, read_tsv
from napari_wsi_xai.training.wording import listed

__all__ = ["read_tcga"]

NAME = "TCGA"

MANIFESTS = ("gdc_manifest*.txt", "gdc_manifest*.tsv", "manifest*.txt", "manifest*.tsv")
CLINICAL = ("clinical*.tsv", "clinical*/clinical.tsv")
CASE_COLUMNS = ("case_submitter_id", "cases.submitter_id", "bcr_patient_barcode")
UNKNOWN = ("", "'--", "--", "not reported", "unknown", "[not available]", "[unknown]")

BARCODE = re.compile(r"TCGA-\w{2}-\w{4}")
"""Start of a slide's name, the patient: project, site and participant."""


def read_tcga(
    data: Path,
    *,
    label: str = "project_id",
    classes: Sequence[str] | None = None,
    slides: str = "*",
) -> Cohort:
    """Cohort of slides that were downloaded with the GDC's client.

    Layout::

        gdc_manifest.txt                       columns id and filename
        clinical.tsv                           one row or more a case (case_submitter_id)
        <id>/TCGA-AA-0001-01Z-00-DX1.<uuid>.svs     or all slides in one folder

    Parameters
    ----------
    data
        The folder.
    label
        Column of the clinical table; as in the TCGA-NSCLC cohorts, the project.
    classes
        Values of it to take, in the order of a model's outputs; by default all, sorted. Patients
        with others or none are left out, with a warning that names some.
    slides
        Part of the name that a slide must have: ``"DX"`` for diagnostic slides, ``"*"`` for all.

    Raises
    ------
    CohortError
        The tables or slides are missing, patients have several values or, where no ``classes``
        are given, none; the message names them.
    """
    if not data.is_dir():
        raise CohortError(f"there is no folder at {data}: give the one that {NAME} lies in.")
    manifest, clinical = _first(data, MANIFESTS), _first(data, CLINICAL)
    absent = [
        name
        for name, path in (("gdc_manifest*.txt", manifest), ("clinical.tsv", clinical))
        if path is None
    ]
    missing_files(NAME, data, absent)
    assert manifest is not None
    assert clinical is not None
    paths = _slides_of(manifest, data, slides)
    patients = sorted({_patient(path) for path in paths})
    values, column = _values_of(clinical, label)
    names = tuple(classes or sorted({value for one in patients for value in values.get(one, ())}))
    wanted = [one for one in patients if classes is None or values.get(one, set()) & set(names)]
    _check_values(clinical, column, {one: values.get(one, set()) for one in wanted})
    cases = [
        Case(slide_name(path.name), names.index(next(iter(values[patient]))), patient, path)
        for path in paths
        if (patient := _patient(path)) in wanted
    ]
    cohort = check_cohort(Cohort(tuple(cases), names), least=1)
    _warn_of(
        [
            f"{one} ({', '.join(sorted(values.get(one, ()))) or 'not told'})"
            for one in patients
            if one not in wanted
        ],
        column,
    )
    return cohort


def _warn_of(left: Sequence[str], column: str) -> None:
    if left:
        what = "1 patient is" if len(left) == 1 else f"{len(left)} patients are"
        warnings.warn(
            f"{what} left out, whose {column} is none of the classes: {listed(left)}.",
            WsiXaiWarning,
            stacklevel=4,
        )


def _first(data: Path, patterns: Sequence[str]) -> Path | None:
    found = (path for pattern in patterns for path in sorted(data.glob(pattern)))
    return next(found, None)


def _patient(path: Path) -> str:
    match = BARCODE.match(path.name)
    if match is None:
        raise CohortError(f"{path.name} is no slide of {NAME}: names begin as TCGA-AA-0001 does.")
    return match[0]


def _slides_of(manifest: Path, data: Path, part: str) -> list[Path]:
    """Slides that the manifest lists, each in the folder of its id or not."""
    rows = read_tsv(manifest)
    if not rows or not {"id", "filename"} <= rows[0].keys():
        raise CohortError(f"{manifest} is no manifest of the GDC: columns id and filename lack.")
    paths, missing = [], []
    for row in rows:
        name = row["filename"]
        wanted = part in ("*", "") or part in name
        if not wanted or not name.lower().endswith((".svs", ".tif", ".tiff")):
            continue
        places = (data / row["id"] / name, data / name, data / "slides" / name)
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            missing.append(places[0])
        else:
            paths.append(path)
    missing_files(NAME, data, missing)
    if not paths:
        raise CohortError(f"{manifest} lists no slides (.svs) with {part!r} in their names.")
    return paths


def _values_of(clinical: Path, label: str) -> tuple[dict[str, set[str]], str]:
    """Values of the column for every patient that it tells one of, and the column's name."""
    rows = read_tsv(clinical)
    columns = list(rows[0]) if rows else []
    case = next((name for name in CASE_COLUMNS if name in columns), None)
    # Newer tables tell whose column it is: "project.project_id".
    longer = [name for name in columns if name.endswith(f".{label}")]
    found = [label] if label in columns else longer
    if case is None or not found:
        raise CohortError(
            f"{clinical} has no column {CASE_COLUMNS[0] if case is None else label}: its columns "
            f"are {listed(columns)}."
        )
    if len(found) > 1:
        raise CohortError(
            f"{clinical} has several columns {label}: name one, {' or '.join(found)}."
        )
    values: dict[str, set[str]] = {}
    for row in rows:
        if row[found[0]].lower() not in UNKNOWN:
            values.setdefault(row[case], set()).add(row[found[0]])
    return values, found[0]


def _check_values(clinical: Path, label: str, values: dict[str, set[str]]) -> None:
    """Raise unless every patient has one value, and the same one in all rows."""
    without = [patient for patient, told in values.items() if not told]
    if without:
        raise CohortError(f"{clinical} tells no {label} of {listed(without)}.")
    several = [
        f"{patient} ({', '.join(sorted(told))})"
        for patient, told in values.items()
        if len(told) > 1
    ]
    if several:
        raise CohortError(f"{clinical} tells several values of {label}: {listed(several)}.")

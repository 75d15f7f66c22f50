"""BRACS: breast lesions in three groups and seven types (Brancati et al., Database 2022)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from napari_wsi_xai.errors import BadArgumentError, WsiXaiWarning
from napari_wsi_xai.training.cohort import SIDES, Case, Cohort, check_cohort
from napari_wsi_xai.training.public_files import (
    missing_files,
    read_sheet,
    root_with,
    slide_files,
)
from napari_wsi_xai.training.wording import listed

__all__ = ["read_bracs"]

NAME = "BRACS"

TYPES = {"N": "BT", "PB": "BT", "UDH": "BT", "FEA": "AT", "ADH": "AT", "DCIS": "MT", "IC": "MT"}
"""Group of every lesion type: benign, atypical, malignant."""

GROUPS = ("BT", "AT", "MT")

FOLDERS = ("BRACS_WSI", "histoimage.na.icar.cnr.it/BRACS_WSI")
"""Where the sides lie, when unpacked and when mirrored from the server."""

_SIDES_IN_TABLE = {"training": "train", "validation": "val", "testing": "test"}


def read_bracs(data: Path, *, labels: Literal["group", "type"] = "group") -> Cohort:
    """Cohort of the whole slides of BRACS with the official split.

    Layout::

        BRACS_WSI/train/Group_BT/Type_PB/BRACS_281.svs     also val and test
        BRACS.xlsx                                         whom every slide is of

    Without the table every slide counts as a patient. With it, a patient with slides on several
    sides (the official split has one) keeps those on the last of them, so that validation and
    test slides are all there; the others are left out, with a warning that names them.

    Parameters
    ----------
    data
        The folder.
    labels
        ``"group"`` for benign, atypical and malignant (BT, AT, MT), ``"type"`` for the seven
        types.

    Raises
    ------
    CohortError
        A side has no slides, or slides of the table are missing; the message names them.
    """
    if labels not in ("group", "type"):
        raise BadArgumentError(f"labels={labels!r} must be 'group' or 'type'.")
    root = root_with(data, NAME, SIDES, *FOLDERS)
    rows = [
        (path, kind, side)
        for side in SIDES
        for kind, group in TYPES.items()
        for path in slide_files(root / side / f"Group_{group}" / f"Type_{kind}", ".svs")
    ]
    empty = [side for side in SIDES if side not in {row[2] for row in rows}]
    missing_files(NAME, root, [f"{side}/Group_*/Type_*/*.svs" for side in empty])
    table = next(
        (place / "BRACS.xlsx" for place in (data, root, root.parent) if _has_table(place)), None
    )
    patients = {} if table is None else _read_patients(table, root, {row[0].stem for row in rows})
    classes = GROUPS if labels == "group" else tuple(TYPES)
    cases = []
    for path, kind, side in rows:
        label = classes.index(TYPES[kind] if labels == "group" else kind)
        patient = patients.get(path.stem, path.stem)
        cases.append(Case(path.stem, label, patient, path, side))
    return check_cohort(Cohort(_apart(cases), classes), least=0)


def _apart(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Cases without those whose patient is on a later side too."""
    last: dict[str, int] = {}
    for case in cases:
        last[case.patient] = max(last.get(case.patient, 0), SIDES.index(str(case.split)))
    kept = [case for case in cases if SIDES[last[case.patient]] == case.split]
    left = [f"{case.slide} ({case.split})" for case in cases if case not in kept]
    if left:
        warnings.warn(
            f"{listed(left)} left out: their patients are on a later side of the official split "
            "too.",
            WsiXaiWarning,
            stacklevel=4,
        )
    return tuple(kept)


def _has_table(folder: Path) -> bool:
    return (folder / "BRACS.xlsx").is_file()


def _read_patients(table: Path, root: Path, there: set[str]) -> dict[str, str]:
    """Patient of every slide; raise where slides of the table are missing."""

    def fits(header: list[str]) -> bool:
        names = [name.lower() for name in header]
        return "wsi filename" in names and any("patient" in name for name in names)

    patients: dict[str, str] = {}
    missing = []
    for row in read_sheet(table, fits):
        cells = {name.lower(): value for name, value in row.items()}
        slide = cells["wsi filename"].removesuffix(".svs")
        if not slide:
            continue
        patients[slide] = next(value for name, value in cells.items() if "patient" in name)
        if slide not in there:
            kind = cells.get("wsi label", "")
            side = _SIDES_IN_TABLE.get(cells.get("set", "").lower(), "*")
            folder = f"Group_{TYPES[kind]}/Type_{kind}" if kind in TYPES else "Group_*/Type_*"
            missing.append(f"{side}/{folder}/{slide}.svs")
    missing_files(NAME, root, missing)
    return patients

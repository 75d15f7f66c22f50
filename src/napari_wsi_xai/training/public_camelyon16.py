"""CAMELYON16: lymph nodes with and without metastases (Ehteshami Bejnordi et al., JAMA 2017)."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from napari_wsi_xai.errors import CohortError
from napari_wsi_xai.training.cohort import Case, Cohort, check_cohort
from napari_wsi_xai.training.public_files import missing_files, root_with, slide_files
from napari_wsi_xai.training.wording import listed

__all__ = ["read_camelyon16"]

NAME = "CAMELYON16"
CLASSES = ("normal", "tumor")

WHOLE = {"normal": set(range(1, 161)) - {86}, "tumor": set(range(1, 112))}
"""Numbers of the training slides; those for testing are in ``reference.csv``."""

REFERENCES = (
    "testing/reference.csv",
    "reference.csv",
    "evaluation/reference.csv",
    "testing/evaluation/reference.csv",
)
OUTLINES = (
    "annotations",
    "training/lesion_annotations",
    "training/annotations",
    "testing/lesion_annotations",
    "testing/annotations",
    "lesion_annotations",
)


def read_camelyon16(data: Path, *, complete: bool = False, outlines: bool = True) -> Cohort:
    """Cohort of CAMELYON16 with the official split.

    Layout::

        training/normal/normal_001.tif    or images/ for all slides, as one mirror has it
        training/tumor/tumor_001.tif
        testing/images/test_001.tif
        testing/reference.csv             test_001,Tumor,...
        annotations/tumor_001.xml         or lesion_annotations/ in training and in testing

    Every slide counts as a patient, because the data set does not say whom they are of.

    Parameters
    ----------
    data
        The folder.
    complete
        Require all 270 training slides; otherwise those there are taken.
    outlines
        Require the outlines of all tumour slides; otherwise those there are taken.

    Raises
    ------
    CohortError
        Slides of the reference, outlines of tumour slides or the reference are missing, or test
        slides have no label; the message names them.
    """
    root = root_with(data, NAME, ("training", "images"), NAME)
    places = _places(root)
    slides = {kind: _slides(folder, kind) for kind, folder in places.items()}
    reference = next((root / place for place in REFERENCES if (root / place).is_file()), None)
    missing: list[Path | str] = [
        places[kind] / f"{kind}_{number:03d}.tif"
        for kind, numbers in WHOLE.items()
        for number in sorted(numbers if complete else {1} if not slides[kind] else ())
        if f"{kind}_{number:03d}" not in slides[kind]
    ]
    labels = {} if reference is None else _read_reference(reference)
    missing += [REFERENCES[0]] if reference is None else []
    missing += [places["test"] / f"{slide}.tif" for slide in labels if slide not in slides["test"]]
    drawn = {path.stem: path for place in OUTLINES for path in slide_files(root / place, ".xml")}
    tumors = [*slides["tumor"], *(slide for slide, label in labels.items() if label == "tumor")]
    if outlines:
        missing += [f"annotations/{slide}.xml" for slide in tumors if slide not in drawn]
    missing_files(NAME, root, missing)
    unlabelled = [slide for slide in slides["test"] if slide not in labels]
    if unlabelled:
        raise CohortError(f"{reference} does not tell the label of {listed(unlabelled)}.")
    rows = [(path, kind, "train") for kind in CLASSES for path in slides[kind].values()]
    rows += [(slides["test"][slide], label, "test") for slide, label in labels.items()]
    cases = (_case(path, label, side, drawn) for path, label, side in rows)
    return check_cohort(Cohort(tuple(cases), CLASSES), least=1)


def _places(root: Path) -> dict[str, Path]:
    """Folder of the slides of every kind."""
    if not (root / "training").is_dir():
        return dict.fromkeys((*CLASSES, "test"), root / "images")
    train, test = root / "training", root / "testing" / "images"
    return {**{kind: train / kind for kind in CLASSES}, "test": test}


def _case(path: Path, label: str, side: str, drawn: dict[str, Path]) -> Case:
    outline = drawn.get(path.stem) if label == "tumor" else None
    return Case(path.stem, CLASSES.index(label), path.stem, path, side, outline)


def _slides(folder: Path, kind: str) -> dict[str, Path]:
    """Slides ``<kind>_<number>.tif``, not the masks that lie beside them in some copies."""
    return {
        path.stem: path
        for path in slide_files(folder, ".tif")
        if path.stem.startswith(f"{kind}_") and path.stem[len(kind) + 1 :].isdecimal()
    }


def _read_reference(path: Path) -> dict[str, str]:
    """Label of every test slide; some copies have a header, some name the file."""
    labels: dict[str, str] = {}
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"{path} cannot be read as a table: {error}.") from error
    for row in rows:
        if len(row) > 1 and (label := row[1].strip().lower()) in CLASSES:
            slide = re.sub(r"\.tif$", "", row[0].strip(), flags=re.IGNORECASE)
            if labels.setdefault(slide, label) != label:
                raise CohortError(f"{path} tells two labels of {slide}: leave the right one.")
    if not labels:
        raise CohortError(f"{path} has no rows of slide and label, as in 'test_001,Tumor'.")
    return labels

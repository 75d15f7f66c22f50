"""CRCHistoPhenotypes: nuclei of colorectal cancer (Sirinukunwattana et al., IEEE TMI 2016)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import CohortError
from napari_wsi_xai.training.cohort import Case, Cohort, check_cohort
from napari_wsi_xai.training.public_files import missing_files, root_with

__all__ = ["NUCLEI", "read_crc_histophenotypes", "read_nuclei"]

NAME = "CRCHistoPhenotypes"
CLASSES = ("other", "epithelial")
NUCLEI = ("epithelial", "fibroblast", "inflammatory", "others")
WHOLE = 100
"""Images in the data set."""


def read_crc_histophenotypes(data: Path, *, complete: bool = False) -> Cohort:
    """Cohort of the classification images, labelled as in the ABMIL paper.

    An image is "epithelial" where it has at least one epithelial nucleus. Layout::

        Classification/img1/img1.bmp
        Classification/img1/img1_epithelial.mat       also fibroblast, inflammatory, others

    Images are 500 x 500 pixels at 20x (about 0.55 um/px). Every image counts as a patient,
    because the data set does not say whom they are of. There is no official split.

    Parameters
    ----------
    data
        The folder.
    complete
        Require all 100 images; otherwise those there are taken.

    Raises
    ------
    CohortError
        Images or tables of nuclei are missing or cannot be read; the message names them.
    """
    root = root_with(data, NAME, ("Classification",), "CRCHistoPhenotypes_2016_04_28")
    folder = root / "Classification"
    numbers = {
        int(match[1])
        for place in folder.iterdir()
        if place.is_dir() and (match := re.fullmatch(r"img(\d+)", place.name))
    }
    wanted = sorted(numbers | set(range(1, WHOLE + 1)) if complete else numbers) or [1]
    missing = [
        path for number in wanted for path in _files(folder / f"img{number}") if not path.is_file()
    ]
    missing_files(NAME, root, missing)
    cases = []
    for number in wanted:
        image, epithelial, *_ = _files(folder / f"img{number}")
        label = int(len(_read_places(epithelial)) > 0)
        cases.append(Case(f"img{number}", label, f"img{number}", image))
    return check_cohort(Cohort(tuple(cases), CLASSES), least=1)


def read_nuclei(image: Path) -> dict[str, NDArray[np.float64]]:
    """Centres (n, 2), yx, pixels, of an image's nuclei by their kind."""
    return {kind: _read_places(image.with_name(f"{image.stem}_{kind}.mat")) for kind in NUCLEI}


def _files(folder: Path) -> list[Path]:
    tables = [folder / f"{folder.name}_{kind}.mat" for kind in NUCLEI]
    return [folder / f"{folder.name}.bmp", *tables]


def _read_places(path: Path) -> NDArray[np.float64]:
    from scipy.io import loadmat

    try:
        places = np.asarray(loadmat(path)["detection"], dtype=np.float64)
    except (OSError, KeyError, ValueError, TypeError, NotImplementedError) as error:
        raise CohortError(f"{path} is no table of nuclei ('detection'): {error}.") from error
    return places.reshape(-1, 2)[:, ::-1]  # the file has x before y

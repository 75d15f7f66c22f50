"""Cohorts of published data sets, read from the folders as they are distributed.

========================  ==================================================================
``camelyon16``            lymph nodes with and without breast cancer metastases
``crc-histophenotypes``   colorectal images with and without epithelial nuclei
``bracs``                 breast lesions, three groups or seven types
``tcga``                  slides of The Cancer Genome Atlas by a column of the clinical table
========================  ==================================================================
"""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.training.cohort import Cohort
from napari_wsi_xai.training.public_bracs import read_bracs
from napari_wsi_xai.training.public_camelyon16 import read_camelyon16
from napari_wsi_xai.training.public_crc import read_crc_histophenotypes
from napari_wsi_xai.training.public_tcga import read_tcga

__all__ = ["PUBLIC_SETS", "read_public_set"]

PUBLIC_SETS: dict[str, Callable[..., Cohort]] = {
    "camelyon16": read_camelyon16,
    "crc-histophenotypes": read_crc_histophenotypes,
    "bracs": read_bracs,
    "tcga": read_tcga,
}


def read_public_set(name: str, data: str | os.PathLike[str], **options: Any) -> Cohort:
    """The cohort of a published data set; its cases' features are the slides.

    Parameters
    ----------
    name
        A key of :data:`PUBLIC_SETS`.
    data
        The folder it lies in.
    **options
        What its reader takes besides.

    Raises
    ------
    BadArgumentError
        There is no such data set, or its reader has no such option.
    CohortError
        Files are missing or do not say what they must; the message names them.
    """
    if name not in PUBLIC_SETS:
        near = difflib.get_close_matches(name, PUBLIC_SETS, 1, 0)
        raise BadArgumentError(
            f"there is no data set {name!r}, perhaps {near[0]}: {', '.join(PUBLIC_SETS)} can be "
            "read."
        )
    reader = PUBLIC_SETS[name]
    taken = list(inspect.signature(reader).parameters)[1:]
    unknown = [option for option in options if option not in taken]
    if unknown:
        raise BadArgumentError(
            f"the data set {name} has no option {unknown[0]!r}; it takes {', '.join(taken)}."
        )
    return reader(Path(data), **options)

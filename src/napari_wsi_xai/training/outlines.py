"""Files of outlines beside a cohort's annotations, slide by slide."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from napari_wsi_xai.errors import BadArgumentError, CohortError
from napari_wsi_xai.training.cohort import Case
from napari_wsi_xai.training.cohort_features import feature_key
from napari_wsi_xai.training.cohort_table import read_rows
from napari_wsi_xai.training.wording import listed

__all__ = ["EXCLUDED_COLUMN", "excluded_of_table", "outlines_in_folder"]

EXCLUDED_COLUMN = "excluded"

Files = dict[str, tuple[Path, ...]]

ENDINGS = (".geojson", ".json")


def excluded_of_table(table: str | os.PathLike[str], slides: Iterable[str]) -> Files:
    """Files of excluded regions that a cohort's table names in its column ``excluded``.

    Parameters
    ----------
    table
        The CSV; places of files are relative to its folder.
    slides
        Names of the slides of interest.

    Returns
    -------
    dict
        Slide to its files; none where the table has no such column, or no value in it.

    Raises
    ------
    CohortError
        The table cannot be read, or files are missing; the message names them.
    """
    path, wanted = Path(table), set(slides)
    found: Files = {}
    for row in read_rows(path):
        name, place = feature_key(row["slide"]), row.get(EXCLUDED_COLUMN)
        if place and name in wanted:
            found[name] = (path.parent / place,)
    lacking = [str(file) for files in found.values() for file in files if not file.is_file()]
    if lacking:
        raise CohortError(f"files of excluded regions are missing: {listed(lacking)}.")
    return found


def outlines_in_folder(folder: str | os.PathLike[str], cases: Iterable[Case]) -> Files:
    """Files ``<slide>.geojson`` (or ``.json``) in a folder.

    The annotation that a case has already is not named again.

    Raises
    ------
    BadArgumentError
        The folder is not there, or has outlines of none of the slides.
    """
    place, names = Path(folder), []
    found: Files = {}
    if not place.is_dir():
        raise BadArgumentError(f"there is no folder of outlines at {place}.")
    for case in cases:
        names.append(case.slide)
        files = [path for ending in ENDINGS if (path := place / f"{case.slide}{ending}").is_file()]
        if files:
            own = case.annotation
            found[case.slide] = tuple(f for f in files if own is None or not f.samefile(own))
    if not found:
        raise BadArgumentError(
            f"{place} has outlines of none of the slides {listed(names)}: <slide>.geojson is "
            "looked for."
        )
    return found

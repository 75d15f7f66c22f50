"""Where the features of a cohort's slides lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from napari_wsi_xai.errors import CohortError
from napari_wsi_xai.slides.sources import slide_name
from napari_wsi_xai.training.wording import listed

__all__ = ["KINDS", "feature_key", "find_features", "kind_of_features"]

STORE = ".wsixai.zarr"

KINDS = ("run", "h5", "pt", "slide")
"""What features of a slide can be, the one that is taken first where there are several."""

SUBFOLDERS = ("h5_files", "pt_files")
"""Folders that CLAM and tools like it sort features into."""


def kind_of_features(path: Path) -> str:
    """One of :data:`KINDS`, by the name alone."""
    name = path.name.lower()
    if name.endswith(STORE):
        return "run"
    return name.rpartition(".")[2] if name.endswith((".h5", ".pt")) else "slide"


def feature_key(name: str) -> str:
    """Name of a slide without folder and file endings, as a cohort or a folder may have them."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    for ending in (STORE, ".h5", ".pt"):
        if last.lower().endswith(ending):
            return last[: -len(ending)]
    return slide_name(last)


def find_features(folder: Path, slides: Sequence[str]) -> dict[str, Path]:
    """Features of every slide, under its name as given.

    Raises
    ------
    CohortError
        The folder is not there, or lacks slides; the message names them.
    """
    if not folder.is_dir():
        raise CohortError(f"there is no folder of features at {folder}.")
    there: dict[str, Path] = {}
    for path in _candidates(folder):
        key = feature_key(path.name)
        if key not in there or _rank(path) < _rank(there[key]):
            there[key] = path
    found = {slide: _placed(folder, slide) or _found(folder, slide, there) for slide in slides}
    missing = [feature_key(slide) for slide, path in found.items() if path is None]
    if missing:
        raise CohortError(
            f"{folder} has no features of {len(missing)} of {len(slides)} slides: "
            f"{listed(missing)}; <slide>{STORE}, <slide>.h5, <slide>.pt or the slide itself is "
            "looked for."
        )
    return {slide: path for slide, path in found.items() if path is not None}


def _placed(folder: Path, slide: str) -> Path | None:
    """What a slide means that is named by its place in the folder, ``site/a.svs``."""
    path = folder / slide
    return path if "/" in slide and _is_known(path) and path.exists() else None


def _found(folder: Path, slide: str, there: dict[str, Path]) -> Path | None:
    """Features of a slide by its name; of two slides the one with the ending that was given."""
    path = there.get(feature_key(slide))
    given = folder / slide
    as_given = path is not None and kind_of_features(path) == kind_of_features(given) == "slide"
    return given if as_given and _is_known(given) and given.exists() else path


def _is_known(path: Path) -> bool:
    return kind_of_features(path) != "slide" or slide_name(path.name) != path.name


def _rank(path: Path) -> int:
    return KINDS.index(kind_of_features(path))


def _candidates(folder: Path) -> Iterator[Path]:
    """What may be features in the folder and in those that tools sort them into."""
    for place in (folder, *(folder / name for name in SUBFOLDERS)):
        if not place.is_dir():
            continue
        for path in sorted(place.iterdir()):
            if _is_known(path) and not path.name.startswith("."):
                yield path

"""napari's reader: slides as one multiscale image, result stores as maps over their slide."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from napari_wsi_xai.viewer.slide_layers import (
    METADATA_KEY,
    SLIDE_SUFFIXES,
    LayerData,
    find_slide_layer,
    placement_on,
    slide_layer_data,
)

__all__ = ["get_reader", "read_epochs", "read_run", "read_slide"]

Reader = Callable[[Any], list[LayerData]]

RUN_SUFFIX = ".wsixai.zarr"

OTHERS_READ_TOO = frozenset((".tif", ".tiff", ".btf", ".zarr", ".dcm", ".dicom", ""))
"""Endings that say little: such a file is opened before this reader claims it."""


def get_reader(path: str | PathLike[str] | Sequence[str]) -> Reader | None:
    """Say whether this plugin opens ``path``: a function that does, or None. Never raises.

    Parameters
    ----------
    path
        File, folder or URL. Of several files napari asks to stack, none is opened.
    """
    try:
        return _get_reader(path)
    except Exception:  # anything unexpected in a foreign file means: not ours
        return None


def _get_reader(path: str | PathLike[str] | Sequence[str]) -> Reader | None:
    if not isinstance(path, str | PathLike):
        return None
    source = fspath(path)
    if not source or "\0" in source:
        return None
    is_url = "://" in source
    if not is_url and not Path(source).exists():
        return None
    kind = _kind_of_store(source)
    if kind is not None:
        return read_epochs if kind == "epochs" else read_run
    suffix = Path(source.rstrip("/")).suffix.lower()
    if suffix not in SLIDE_SUFFIXES and not (not is_url and Path(source).is_dir()):
        return None
    if suffix in OTHERS_READ_TOO or Path(source).is_dir():
        return read_slide if _opens_as_slide(source) else None
    return read_slide


def _kind_of_store(source: str) -> str | None:
    """What the folder says that it holds, where it ends like a result store and is a Zarr v3 group.

    None for anything else; "" where it does not say.
    """
    folder = Path(source.rstrip("/"))
    if not folder.name.lower().endswith(RUN_SUFFIX):
        return None
    attributes = folder / "zarr.json"
    if not attributes.is_file():
        return None
    group = json.loads(attributes.read_text())
    if group["node_type"] != "group":
        return None
    about = group.get("attributes", {}).get(METADATA_KEY)
    return str(about.get("kind", "")) if isinstance(about, dict) else ""


def _opens_as_slide(source: str) -> bool:
    """Open the slide to see; a plain photograph in a TIFF is left to other readers."""
    from napari_wsi_xai.slides import open_slide

    with open_slide(source) as slide:
        pyramid = len(slide.levels) > 1
        return pyramid or slide.mpp is not None or slide.backend != "tifffile"


def read_slide(path: str | PathLike[str]) -> list[LayerData]:
    """Open a slide as one multiscale layer in micrometres.

    Without micrometres per pixel in the file the layer is in pixels, and a notice says where to
    state them.

    Raises
    ------
    SlideError
        The slide cannot be opened or read.
    """
    from napari_wsi_xai.slides import open_slide

    slide = open_slide(fspath(path))
    if slide.mpp is None:
        _notify(
            f"{slide.name} does not say its micrometres per pixel, so it lies in pixels; state "
            'them in the widget "Score slide", field "Micrometres per pixel".'
        )
    return [slide_layer_data(slide)]


def read_run(path: str | PathLike[str]) -> list[LayerData]:
    """Open a result store: its maps, over its slide where that can be found.

    The slide's own layer comes first unless the current viewer shows it already.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    from napari_wsi_xai.errors import SlideError
    from napari_wsi_xai.runs import open_run
    from napari_wsi_xai.viewer.layers import layer_data
    from napari_wsi_xai.viewer.states import facts_of, snapshot_of

    run = open_run(fspath(path))
    facts = facts_of(run)
    viewer = _current_viewer()
    shown = None if viewer is None else find_slide_layer(viewer.layers, facts.source)
    layers: list[LayerData] = []
    if shown is None:
        try:
            layers.append(slide_layer_data(run.slide))
        except SlideError as error:
            _notify(f"The maps open without their slide: {error}")
    placement = placement_on(shown, facts.slide_mpp)
    return [*layers, *layer_data(facts, snapshot_of(run), placement)]


def read_epochs(path: str | PathLike[str]) -> list[LayerData]:
    """Open what was watched while a head was trained: maps with a slider over the epochs.

    Each slide's own layer comes below its maps unless the current viewer shows it already.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    from napari_wsi_xai.training.epoch_store import EpochStore
    from napari_wsi_xai.viewer.epoch_layers import epoch_layer_data
    from napari_wsi_xai.viewer.epoch_words import follow_epochs

    viewer = _current_viewer()
    if viewer is not None:
        follow_epochs(viewer)
    find = None if viewer is None else lambda source: find_slide_layer(viewer.layers, source)
    return epoch_layer_data(EpochStore.open(fspath(path)), find, _notify)


def _current_viewer() -> Any:
    from napari import current_viewer

    return current_viewer()


def _notify(message: str) -> None:
    from napari.utils.notifications import show_info

    show_info(message)

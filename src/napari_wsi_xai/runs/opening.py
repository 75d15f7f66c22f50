"""Open a result store of either kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from napari_wsi_xai.runs.run import Run
from napari_wsi_xai.runs.store import ResultStore
from napari_wsi_xai.runs.store_group import kind_of
from napari_wsi_xai.runs.zoom import ZoomRun
from napari_wsi_xai.runs.zoom_store import MagnificationStore

if TYPE_CHECKING:
    from napari_wsi_xai.models import MILModel, Model

__all__ = ["open_run", "open_store"]


def open_run(path: Path | str, model: Model | Path | str | None = None) -> Run | ZoomRun:
    """Open a result store.

    Parameters
    ----------
    path
        The ``.wsixai.zarr`` folder.
    model
        The model it was made with, to run its MIL head again.

    Returns
    -------
    Run or ZoomRun
        A :class:`ZoomRun` where the model looked at several magnifications.

    Raises
    ------
    StoreError
        There is no readable result store.
    StoreMismatchError
        It was made with another model.
    """
    store = open_store(path, "r" if model is None else "r+")
    head = _head_of(model, store)
    if isinstance(store, MagnificationStore):
        return ZoomRun(store, head=head)
    return Run(store, head=head)


def open_store(
    path: Path | str, mode: Literal["r", "r+"] = "r"
) -> ResultStore | MagnificationStore:
    """The store alone, of either kind, where nothing of its maps and tiles is asked for.

    Raises
    ------
    StoreError
        There is no readable result store.
    """
    several = kind_of(path) == MagnificationStore.KIND
    return MagnificationStore.open(path, mode) if several else ResultStore.open(path, mode)


def _head_of(
    model: Model | Path | str | None, store: ResultStore | MagnificationStore
) -> MILModel | None:
    """The model's head, once it is known that the store was made with it."""
    if model is None:
        return None  # nor is anything of the models' room imported, which takes seconds
    from napari_wsi_xai.models import Model, load_model

    bundle = model if isinstance(model, Model) else load_model(model)
    store.require({"model": bundle.content_hash, "encoder": bundle.encoder.content_hash})
    return bundle.mil

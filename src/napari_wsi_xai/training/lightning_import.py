"""Lightning, which comes with the extra ``train``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from napari_wsi_xai.errors import MissingExtraError
from napari_wsi_xai.models.torchvision_import import import_torchvision

__all__ = ["import_lightning"]


def import_lightning() -> Any:
    """The module ``lightning.pytorch``.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    import_torchvision()  # Lightning imports it too, and it does not load everywhere as it is.
    try:
        return import_module("lightning.pytorch")
    except ImportError as error:
        raise MissingExtraError("lightning", "train", "Training") from error

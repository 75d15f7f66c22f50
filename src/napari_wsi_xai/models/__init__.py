"""Models: encoders (f_e), MIL heads (f_s, f_a, f_cls), the bundle of both, engines that run them.

Names are imported on first use, because PyTorch takes seconds to load.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_wsi_xai.models.bundle import Model, build_model, load_model, save_model
    from napari_wsi_xai.models.checkpoints import (
        CheckpointFacts,
        bundle_checkpoint,
        import_checkpoint,
        inspect_checkpoint,
    )
    from napari_wsi_xai.models.encoders import EncoderEntry, build_encoder, list_encoders
    from napari_wsi_xai.models.encoders.bagnet import BagNet
    from napari_wsi_xai.models.encoders.encoder import Encoder
    from napari_wsi_xai.models.encoders.small import SmallCNN
    from napari_wsi_xai.models.encoders.small_nets import SMALL_PREPROCESSING, small_encoder
    from napari_wsi_xai.models.engine import Engine
    from napari_wsi_xai.models.mil import MIL_ARCHITECTURES, MILModel, MILOutput, build_mil
    from napari_wsi_xai.models.spec import IMAGENET, EncoderSpec, Preprocessing

__all__ = [
    "IMAGENET",
    "MIL_ARCHITECTURES",
    "SMALL_PREPROCESSING",
    "BagNet",
    "CheckpointFacts",
    "Encoder",
    "EncoderEntry",
    "EncoderSpec",
    "Engine",
    "MILModel",
    "MILOutput",
    "Model",
    "Preprocessing",
    "SmallCNN",
    "build_encoder",
    "build_mil",
    "build_model",
    "bundle_checkpoint",
    "import_checkpoint",
    "inspect_checkpoint",
    "list_encoders",
    "load_model",
    "save_model",
    "small_encoder",
]

_HOMES = {
    "bundle": ("Model", "build_model", "load_model", "save_model"),
    "checkpoints": (
        "CheckpointFacts",
        "bundle_checkpoint",
        "import_checkpoint",
        "inspect_checkpoint",
    ),
    "encoders": ("EncoderEntry", "build_encoder", "list_encoders"),
    "encoders.bagnet": ("BagNet",),
    "encoders.encoder": ("Encoder",),
    "encoders.small": ("SmallCNN",),
    "encoders.small_nets": ("SMALL_PREPROCESSING", "small_encoder"),
    "engine": ("Engine",),
    "mil": ("MIL_ARCHITECTURES", "MILModel", "MILOutput", "build_mil"),
    "spec": ("IMAGENET", "EncoderSpec", "Preprocessing"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

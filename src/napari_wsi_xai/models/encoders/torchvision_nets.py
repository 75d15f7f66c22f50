"""Any classification network of torchvision, up to the descriptor before its classifier."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.encoders.download import fetch
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.encoders.loading import (
    bundled_preprocessing,
    load_weights,
    read_weights,
)
from napari_wsi_xai.models.spec import IMAGENET, EncoderSpec, Preprocessing
from napari_wsi_xai.models.tensor_files import read_state_dict
from napari_wsi_xai.models.torchvision_import import import_torchvision

__all__ = [
    "build_torchvision",
    "current_names",
    "drop_classifier",
    "torchvision_names",
    "torchvision_network",
]

_HEADS = ("fc", "classifier", "head", "heads")
_AUXILIARY = ("AuxLogits", "aux1", "aux2")
_NORMALISES_ITSELF = ("inception_v3", "googlenet")  # their published weights expect this inside


def torchvision_names() -> list[str]:
    """Names of all classification networks of the installed torchvision."""
    import_torchvision()
    from torchvision import models

    return list(models.list_models(module=models))


def build_torchvision(spec: EncoderSpec) -> Encoder:
    """Build an encoder of kind ``"torchvision"``.

    Raises
    ------
    BadArgumentError
        No such network, or no such set of weights.
    WeightsNotFoundError, ModelFileError
        The weights cannot be had or do not fit.
    """
    if spec.name not in torchvision_names():
        raise BadArgumentError(
            f"torchvision has no classification network {spec.name!r}: `models list` shows them."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        module = torchvision_network(spec.name)
    demanded = _demanded_px(module, spec.name)
    ignorable = drop_classifier(module)
    if spec.weights is None:
        name, stated = f"{spec.name} (untrained, seed {spec.seed})", None
    else:
        tensors, origin, stated = _weights(spec)
        load_weights(module, current_names(tensors, spec.name), origin, ignorable)
        name = f"{spec.name} ({origin})"
    preprocessing = spec.preprocessing or stated or _preprocessing(_default(spec.name))
    if preprocessing.input_px is None and demanded is not None:
        preprocessing = Preprocessing(preprocessing.mean, preprocessing.std, demanded)
    return Encoder(spec, module, preprocessing, name, trained=spec.weights is not None)


def torchvision_network(name: str) -> nn.Module:
    """A classification network of torchvision, without trained weights."""
    from torchvision import models

    arguments: dict[str, Any] = {}
    if name in _NORMALISES_ITSELF:
        # Their initialisation by truncated normals takes seconds and random weights need none.
        arguments = {"transform_input": True, "init_weights": False, "aux_logits": False}
    network: nn.Module = models.get_model(name, weights=None, **arguments)
    return network


def drop_classifier(module: nn.Module) -> tuple[str, ...]:
    """Take the classifier off a torchvision network, in place; the rest gives the descriptor.

    What stands before the first linear layer stays where it belongs to the descriptor (the layer
    norm of ConvNeXt), feature maps are averaged over all positions (SqueezeNet's classifier is a
    convolution; VGG and AlexNet flatten a 7 x 7 map), dropout goes.

    Returns
    -------
    tuple of str
        Beginnings of tensor names that a published state dict holds for what was taken off.
    """
    head_name = next(name for name in _HEADS if hasattr(module, name))
    head = getattr(module, head_name)
    pooled = getattr(module, "avgpool", None)
    if isinstance(pooled, nn.AdaptiveAvgPool2d) and pooled.output_size not in (1, (1, 1)):
        module.avgpool = nn.AdaptiveAvgPool2d(1)
        kept: list[nn.Module] = []
    elif any(isinstance(layer, nn.Conv2d) for layer in head.modules()):
        kept = [nn.AdaptiveAvgPool2d(1)]
    else:
        kept = _before_linear(head)
    setattr(module, head_name, nn.Sequential(*kept) if kept else nn.Identity())
    return tuple(f"{name}." for name in (head_name, *_AUXILIARY))


def _before_linear(head: nn.Module) -> list[nn.Module]:
    kept: list[nn.Module] = []
    if isinstance(head, nn.Sequential):
        for layer in head:
            if isinstance(layer, nn.Linear):
                break
            if not isinstance(layer, nn.Dropout):
                kept.append(layer)
    return kept


def _demanded_px(module: nn.Module, name: str) -> int | None:
    """Edge of the only square that the network takes, ``None`` where it takes any."""
    size = getattr(module, "image_size", None)
    if size is None and name.startswith("maxvit"):
        return 224
    return None if size is None else int(size)


def _default(name: str) -> Any:
    from torchvision import models

    return models.get_model_weights(name).DEFAULT


def _preprocessing(entry: Any) -> Preprocessing:
    """Mean and standard deviation that a torchvision weights entry states for itself."""
    transform = entry.transforms()
    mean, std = getattr(transform, "mean", None), getattr(transform, "std", None)
    return IMAGENET if mean is None or std is None else Preprocessing(tuple(mean), tuple(std))


def _weights(spec: EncoderSpec) -> tuple[dict[str, Tensor], str, Preprocessing | None]:
    """Tensors, the name of their origin, and the preprocessing they state."""
    from torchvision import models

    weights = str(spec.weights)
    entries = models.get_model_weights(spec.name)
    if weights == "DEFAULT" or weights in entries.__members__:
        entry = entries[weights] if weights != "DEFAULT" else entries.DEFAULT
        file = fetch(entry.url, f"weights {entry.name} of {spec.name}")
        return read_state_dict(file), entry.name, _preprocessing(entry)
    path = Path(weights)
    stated = bundled_preprocessing(path)
    return read_weights(path), path.name, Preprocessing.from_dict(stated) if stated else None


_DENSENET_LAYER = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$")


def current_names(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Published DenseNet files write ``norm.1.weight`` for what the network calls ``norm1``."""
    if not name.startswith("densenet"):
        return tensors
    return {_DENSENET_LAYER.sub(r"\1\2", key): tensor for key, tensor in tensors.items()}

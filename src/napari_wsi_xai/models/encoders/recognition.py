"""Which network a state dict is of, told by names and shapes alone: torchvision's or a BagNet."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from napari_wsi_xai.errors import ModelFileError
from napari_wsi_xai.models.encoders.bagnet import RECEPTIVE_PX, BagNet, bagnet_name, bagnet_numbers
from napari_wsi_xai.models.encoders.bagnet_nets import CLASSIFIER
from napari_wsi_xai.models.encoders.loading import fitting_weights
from napari_wsi_xai.models.encoders.torchvision_nets import (
    current_names,
    drop_classifier,
    torchvision_names,
    torchvision_network,
)

__all__ = ["descriptor_length", "origin_of", "recognise_encoder"]

_MARKS = {
    "alexnet": "features.10.weight",
    "convnext": "features.1.0.layer_scale",
    "densenet": "features.conv0.weight",
    "efficientnet": "features.1.0.block.0.0.weight",
    "googlenet": "inception3a.branch1.conv.weight",
    "inception": "Mixed_5b.branch1x1.conv.weight",
    "maxvit": "stem.0.0.weight",
    "mnasnet": "layers.8.0.layers.0.weight",
    "mobilenet_v2": "features.1.conv.0.0.weight",
    "mobilenet_v3": "features.1.block.0.0.weight",
    "regnet": "stem.0.weight",
    "res|wide_res": "layer1.0.conv1.weight",
    "shufflenet": "conv5.0.weight",
    "squeezenet": "features.3.squeeze.weight",
    "swin": "features.1.0.attn.qkv.weight",
    "vgg": "features.0.weight",
    "vit": "encoder.pos_embedding",
}
"""One tensor that all networks of a family have, by how their names begin: found without building
any of them."""
_BAGNET_STEM = re.compile(r"(?!.*layer).*\bconv2\.weight")
_PROBE_PX = 224


def recognise_encoder(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the networks, torchvision's and BagNets, that the tensors are the weights of.

    The classifier may be missing or have any number of classes.
    """
    families = [start for start, mark in _MARKS.items() if any(n.endswith(mark) for n in tensors)]
    if not families:
        return []
    bagnets = [name for name in _bagnet_names(tensors) if _fits(name, tensors)]
    if bagnets:
        return bagnets
    pattern = re.compile("|".join(families))
    return [name for name in torchvision_names() if pattern.match(name) and _fits(name, tensors)]


def origin_of(name: str) -> str:
    """Words for whose network it is: ``"torchvision resnet50"``, ``"BagNet bagnet9"``."""
    return f"{'BagNet' if name.startswith('bagnet') else 'torchvision'} {name}"


def _bagnet_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """BagNets of the width that the tensors have; none where no stem of a BagNet is among them."""
    stem = next((t for name, t in tensors.items() if _BAGNET_STEM.fullmatch(name)), None)
    if stem is None or stem.ndim != 4 or stem.shape[0] < 1:
        return []
    return [bagnet_name(px, stem.shape[0]) for px in RECEPTIVE_PX]


def _fits(name: str, tensors: Mapping[str, Tensor]) -> bool:
    network, ignorable = _descriptor_network(name)
    try:
        fitting_weights(network.state_dict(), current_names(dict(tensors), name), name, ignorable)
    except ModelFileError:
        return False
    return True


def _descriptor_network(name: str) -> tuple[nn.Module, tuple[str, ...]]:
    """A network without memory or classifier, and how the names of its classifier begin."""
    if name.startswith("bagnet"):
        with torch.random.fork_rng(devices=[]), _NoMemory():
            return BagNet(*bagnet_numbers(name)), CLASSIFIER
    network = _without_weights(name)
    return network, drop_classifier(network)


def descriptor_length(name: str) -> int:
    """How many numbers a network describes a tile by, without computing any."""
    network, _ = _descriptor_network(name)
    out = network.eval().to("meta")(torch.empty(1, 3, _PROBE_PX, _PROBE_PX, device="meta"))
    return int(out.shape[1])


class _NoMemory(TorchFunctionMode):
    """Parameters without memory or values; unlike the meta device, numbers stay numbers."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _without_weights(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]), _NoMemory():
        return torchvision_network(name)

"""CHOWDER in the names of two public codes, which differ in the order of the extremes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor

from napari_wsi_xai.models.checkpoints.layout import Layout, Tensors

__all__ = ["LAYOUTS"]

_STRIDES = {"score": 2, "mlp": 3}
"""From layer to layer of ours: the sigmoid is in between, and in the perceptron dropout."""


def _weights(tensors: Tensors, pattern: str) -> list[Tensor]:
    """Weights whose names fit, by the numbers in their names."""
    names = [name for name in tensors if re.fullmatch(pattern, name)]
    names.sort(key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    return [tensors[name] for name in names]


def _arguments(score: str, order: str) -> Callable[[Tensors], Any]:
    """``score`` is the pattern of the tile scorer's weights."""

    def arguments(tensors: Tensors) -> dict[str, Any]:
        scorer = _weights(tensors, score)
        perceptron = _weights(tensors, r"mlp\.\d+(\.0)?\.weight")
        logits = perceptron[-1].shape[0]
        return {
            "in_features": scorer[0].shape[1],
            "num_classes": max(2, logits),
            "single_logit": logits == 1,
            "n_extreme": perceptron[0].shape[1] // 2,
            "order": order,
            "hidden": [weight.shape[0] for weight in perceptron[:-1]],
            "score_hidden": [weight.shape[0] for weight in scorer[:-1]],
        }

    return arguments


def _renumber(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Layers under our numbers: other codes have other steps in between."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        network, number, leaf = re.fullmatch(r"(\w+)(?:\.(\d+))?\.(\w+)", name).groups()  # type: ignore[union-attr]
        if number is not None:
            layers = {int(n.split(".")[1]) for n in tensors if re.match(rf"{network}\.\d", n)}
            name = f"{network}.{sorted(layers).index(int(number)) * _STRIDES[network]}.{leaf}"
        # A convolution of width 1 has one more axis than a linear layer.
        renamed[name] = tensor.flatten(1) if tensor.ndim > 2 else tensor
    return renamed


LAYOUTS = (
    Layout(
        "chowder",
        "PyTorch class after the 2018 paper, conv1d and mlp",
        {
            "conv1d.weight": "score.weight",
            "mlp.*.weight": "mlp.*.weight",
            "mlp.*.bias": "mlp.*.bias",
        },
        _arguments(r"conv1d\.weight", "bottom-top"),
        convert=_renumber,
    ),
    Layout(
        "chowder",
        "CharlieCheckpt/msintuit Chowder",
        {
            "score_model.hidden_layers.*.weight": "score.*.weight",
            "score_model.hidden_layers.*.bias": "score.*.bias",
            "mlp.*.0.weight": "mlp.*.weight",
            "mlp.*.0.bias": "mlp.*.bias",
            "mlp.*.weight": "mlp.*.weight",
            "mlp.*.bias": "mlp.*.bias",
        },
        _arguments(r"score_model\.hidden_layers\.\d+\.weight", "top-bottom"),
        optional=frozenset({"mlp.*.0.weight", "mlp.*.0.bias"}),
        convert=_renumber,
    ),
)

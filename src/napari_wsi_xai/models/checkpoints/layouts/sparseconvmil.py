"""SparseConvMIL as its authors' code names it (MarvinLer/SparseConvMIL)."""

from __future__ import annotations

from math import isqrt
from typing import Any

from torch import Tensor

from napari_wsi_xai.models.checkpoints.layout import Layout, Tensors

__all__ = ["LAYOUTS"]

_CONVOLUTION, _CLASSIFIER = "sparse_cnn.", "wsi_embedding_classifier."


def _weights(tensors: Tensors, prefix: str) -> list[Tensor]:
    """Weights of a sequence of layers, in its order."""
    middle = slice(len(prefix), -len(".weight"))
    names = [n for n in tensors if n.startswith(prefix) and n.endswith(".weight")]
    return [tensors[name] for name in sorted(names, key=lambda n: int(n[middle]))]


def _arguments(tensors: Tensors) -> dict[str, Any]:
    convolutions = _weights(tensors, _CONVOLUTION)
    linear = _weights(tensors, _CLASSIFIER)
    logits = linear[-1].shape[0]
    return {
        "in_features": convolutions[0].shape[-2],
        "num_classes": max(2, logits),
        "single_logit": logits == 1,
        "channels": [weight.shape[-1] for weight in convolutions],
        "kernels": [isqrt(weight.shape[0]) for weight in convolutions],
        "hidden": [weight.shape[0] for weight in linear[:-1]],
    }


def _without_groups(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Kernels (k^2, 1, in, out) lose the axis of their one group."""
    return {name: t.squeeze(1) if t.ndim == 4 else t for name, t in tensors.items()}


LAYOUTS = (
    Layout(
        "sparseconvmil",
        "MarvinLer/SparseConvMIL SparseConvMIL",
        {
            f"{authors}*.{kind}": f"{ours}*.{kind}"
            for authors, ours in ((_CONVOLUTION, "convolutions."), (_CLASSIFIER, "classifier."))
            for kind in ("weight", "bias")
        },
        _arguments,
        ignored=(r"tile_embedder\..*",),
        convert=_without_groups,
    ),
)

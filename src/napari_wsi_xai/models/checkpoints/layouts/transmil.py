"""TransMIL as its authors' code names it (szc19990412/TransMIL)."""

from __future__ import annotations

from typing import Any

from napari_wsi_xai.models.checkpoints.layout import Layout, Tensors

__all__ = ["COMMON_NAMES", "LAYOUTS", "layer_names", "size_arguments"]

COMMON_NAMES = {
    "cls_token": "class_token",
    **{
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in {
            "_fc1.0": "embed",
            "pos_layer.proj": "position.conv7",
            "pos_layer.proj1": "position.conv5",
            "pos_layer.proj2": "position.conv3",
            "norm": "norm",
            "_fc2": "classifier",
        }.items()
        for kind in ("weight", "bias")
    },
}
"""What lies around the layers; xMIL's TransMIL names it alike."""


def layer_names(theirs: str, ours: str) -> dict[str, str]:
    """Names inside one layer, or of any layer where both hold ``*``."""
    inside = {
        "norm.weight": "norm.weight",
        "norm.bias": "norm.bias",
        "attn.to_qkv.weight": "attention.qkv.weight",
        "attn.to_out.0.weight": "attention.out.weight",
        "attn.to_out.0.bias": "attention.out.bias",
        "attn.res_conv.weight": "attention.residual.weight",
    }
    return {f"{theirs}.{a}": f"{ours}.{b}" for a, b in inside.items()}


def size_arguments(tensors: Tensors, first_layer: str) -> dict[str, Any]:
    """Sizes from the shapes. The convolution of the values has one kernel a head.

    Without that convolution nothing tells the number of heads: it is left at its default.
    """
    dim, in_features = tensors["_fc1.0.weight"].shape
    logits = tensors["_fc2.weight"].shape[0]
    arguments = {
        "in_features": in_features,
        "num_classes": max(2, logits),
        "single_logit": logits == 1,
        "dim": dim,
    }
    convolution = tensors.get(f"{first_layer}.attn.res_conv.weight")
    if convolution is None:
        return {**arguments, "residual_kernel": 0}
    heads, _, taps, _ = convolution.shape
    return {**arguments, "heads": heads, "residual_kernel": taps}


LAYOUTS = (
    Layout(
        "transmil",
        "szc19990412/TransMIL TransMIL",
        {
            **COMMON_NAMES,
            **layer_names("layer1", "layers.0"),
            **layer_names("layer2", "layers.1"),
        },
        lambda tensors: size_arguments(tensors, "layer1"),
        optional=frozenset(f"layer{i}.attn.res_conv.weight" for i in (1, 2)),
    ),
)

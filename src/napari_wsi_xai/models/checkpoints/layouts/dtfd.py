"""DTFD-MIL as its authors' code names it (hrzhang1123/DTFD-MIL)."""

from __future__ import annotations

from typing import Any

from napari_wsi_xai.models.checkpoints.layout import Layout, Tensors

__all__ = ["LAYOUTS"]

_BLOCKS = {
    "dim_reduction.resBlocks.*.block.0.weight": "residual_blocks.*.first.weight",
    "dim_reduction.resBlocks.*.block.2.weight": "residual_blocks.*.second.weight",
}


def _attention(theirs: str, ours: str) -> dict[str, str]:
    modules = {"attention_V.0": "V", "attention_U.0": "U", "attention_weights": "w"}
    return {
        f"{theirs}.{a}.{kind}": f"{ours}.{b}.{kind}"
        for a, b in modules.items()
        for kind in ("weight", "bias")
    }


def _arguments(tensors: Tensors) -> dict[str, Any]:
    hidden, in_features = tensors["dim_reduction.fc1.weight"].shape
    logits = tensors["att_classifier.classifier.fc.weight"].shape[0]
    blocks = {name.split(".")[2] for name in tensors if "dim_reduction.resBlocks." in name}
    return {
        "in_features": in_features,
        "num_classes": max(2, logits),
        "single_logit": logits == 1,
        "hidden": hidden,
        "attention": tensors["attention.attention_V.0.weight"].shape[0],
        "residual_blocks": len(blocks),
    }


LAYOUTS = (
    Layout(
        "dtfd",
        "hrzhang1123/DTFD-MIL Main_DTFD_MIL",
        {
            "classifier.fc.weight": "pseudo_bag_classifier.weight",
            "classifier.fc.bias": "pseudo_bag_classifier.bias",
            "dim_reduction.fc1.weight": "reduce.weight",
            **_BLOCKS,
            **_attention("attention", "tile_attention"),
            **_attention("att_classifier.attention", "distilled_attention"),
            "att_classifier.classifier.fc.weight": "classifier.weight",
            "att_classifier.classifier.fc.bias": "classifier.bias",
        },
        _arguments,
        optional=frozenset(_BLOCKS),
    ),
)

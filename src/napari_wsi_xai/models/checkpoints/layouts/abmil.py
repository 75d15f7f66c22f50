"""Attention-based MIL as its authors' code names it (AMLab-Amsterdam/AttentionDeepMIL)."""

from __future__ import annotations

from typing import Any

from napari_wsi_xai.models.checkpoints.layout import Layout, Tensors

__all__ = ["LAYOUTS"]

_TRUNK = (r"feature_extractor_part\d\..*",)


def _sizes(v: str) -> Any:
    def arguments(tensors: Tensors) -> dict[str, Any]:
        hidden, in_features = tensors[f"{v}.weight"].shape
        logits = tensors["classifier.0.weight"].shape[0]
        return {
            "in_features": in_features,
            "num_classes": max(2, logits),
            "single_logit": logits == 1,
            "hidden": hidden,
        }

    return arguments


LAYOUTS = (
    Layout(
        "abmil",
        "AMLab-Amsterdam/AttentionDeepMIL Attention",
        {
            "attention.0.weight": "attention_V.weight",
            "attention.0.bias": "attention_V.bias",
            "attention.2.weight": "attention_w.weight",
            "attention.2.bias": "attention_w.bias",
            "classifier.0.weight": "classifier.weight",
            "classifier.0.bias": "classifier.bias",
        },
        _sizes("attention.0"),
        ignored=_TRUNK,
    ),
    Layout(
        "abmil-gated",
        "AMLab-Amsterdam/AttentionDeepMIL GatedAttention",
        {
            "attention_V.0.weight": "attention_V.weight",
            "attention_V.0.bias": "attention_V.bias",
            "attention_U.0.weight": "attention_U.weight",
            "attention_U.0.bias": "attention_U.bias",
            "attention_w.weight": "attention_w.weight",
            "attention_w.bias": "attention_w.bias",
            "classifier.0.weight": "classifier.weight",
            "classifier.0.bias": "classifier.bias",
        },
        _sizes("attention_V.0"),
        ignored=_TRUNK,
    ),
)

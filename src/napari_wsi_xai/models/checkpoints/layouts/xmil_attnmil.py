"""AttnMIL as xMIL's authors name it (bifold-pathomics/xMIL)."""

from __future__ import annotations

from typing import Any

from napari_wsi_xai.models.checkpoints.layout import Layout, Tensors

__all__ = ["LAYOUTS"]


def _layers(tensors: Tensors, stem: str) -> int:
    return sum(1 for n in tensors if n.startswith(f"{stem}.") and n.endswith(".weight"))


def _layout(classifier: str, details: str) -> Layout:
    def arguments(tensors: Tensors) -> dict[str, Any]:
        hidden, in_features = tensors["linear_layers.0.0.weight"].shape
        logits = tensors[f"{classifier}.weight"].shape[0]
        return {
            "in_features": in_features,
            "num_classes": max(2, logits),
            "single_logit": logits == 1,
            "hidden": hidden,
            "attention": tensors["attention.0.weight"].shape[0],
            "layers": _layers(tensors, "linear_layers"),
            "out_layers": _layers(tensors, "out_layers"),
        }

    pairs = {
        "linear_layers.*.0": "layers.*",
        "attention.0": "attention_V",
        "attention.2": "attention_w",
        "out_layers.*.0": "out_layers.*",
        classifier: "classifier",
    }
    return Layout(
        "xmil-attnmil",
        f"bifold-pathomics/xMIL AttentionMILModel{details}",
        {f"{a}.{leaf}": f"{b}.{leaf}" for a, b in pairs.items() for leaf in ("weight", "bias")},
        arguments,
        optional=frozenset({"out_layers.*.0.weight", "out_layers.*.0.bias"}),
    )


LAYOUTS = (_layout("classifier", ""), _layout("linear_head", ", 2026"))

"""ZoomMIL as its authors' code names it (histocartography/zoommil)."""

from __future__ import annotations

from typing import Any

from napari_wsi_xai.models.checkpoints.layout import Layout, Tensors

__all__ = ["LAYOUTS"]

_MAGNIFICATIONS = ("low", "mid", "high")


def _attention(authors: str, ours: str) -> dict[str, str]:
    parts = {"attention_a.0": "V", "attention_b.0": "U", "attention_c": "w"}
    return {
        f"{authors}.{theirs}.{kind}": f"{ours}.{part}.{kind}"
        for theirs, part in parts.items()
        for kind in ("weight", "bias")
    }


def _names() -> dict[str, str]:
    names: dict[str, str] = {}
    for level, name in enumerate(_MAGNIFICATIONS):
        for kind in ("weight", "bias"):
            names[f"fc_{name}_mag.0.{kind}"] = f"projections.{level}.0.{kind}"
        names |= _attention(f"ga_{name}_mag", f"attentions.{level}")
        if level + 1 < len(_MAGNIFICATIONS):
            names |= _attention(f"aux_ga_{name}_mag", f"selections.{level}")
    names["classify_head.weight"] = "classifier.weight"
    names["classify_head.bias"] = "classifier.bias"
    return names


def _arguments(tensors: Tensors) -> dict[str, Any]:
    out_features, in_features = tensors["fc_low_mag.0.weight"].shape
    logits = tensors["classify_head.weight"].shape[0]
    return {
        "in_features": in_features,
        "num_classes": max(2, logits),
        "single_logit": logits == 1,
        "hidden": tensors["ga_low_mag.attention_a.0.weight"].shape[0],
        "out_features": out_features,
        "num_magnifications": len(_MAGNIFICATIONS),
    }


LAYOUTS = (Layout("zoommil", "histocartography/zoommil ZoomMIL", _names(), _arguments),)

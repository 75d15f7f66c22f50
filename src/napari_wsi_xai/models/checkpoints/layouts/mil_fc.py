"""MIL with a fully connected network as CLAM's authors name it (mahmoodlab/CLAM)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari_wsi_xai.models.checkpoints.layout import Layout, Tensors

__all__ = ["LAYOUTS"]


def _arguments(classifier: str, rule: str) -> Callable[[Tensors], Any]:
    def arguments(tensors: Tensors) -> dict[str, Any]:
        hidden, in_features = tensors["fc.0.weight"].shape
        logits = tensors[f"{classifier}.weight"].shape[0]
        return {
            "in_features": in_features,
            "num_classes": max(2, logits),
            "single_logit": logits == 1,
            "hidden": hidden,
            "rule": rule,
        }

    return arguments


def _layout(source: str, classifier: str, rule: str) -> Layout:
    return Layout(
        "mil-fc",
        f"mahmoodlab/CLAM {source}",
        {
            "fc.0.weight": "projection.weight",
            "fc.0.bias": "projection.bias",
            f"{classifier}.weight": "classifier.weight",
            f"{classifier}.bias": "classifier.bias",
        },
        _arguments(classifier, rule),
    )


LAYOUTS = (
    _layout("MIL_fc", "classifier", "positive"),
    _layout("MIL_fc_mc", "classifiers", "any"),
)

"""MS-DA-MIL and DA-MIL as their authors' code names them (takeuchi-lab/MS-DA-MIL-CNN)."""

from __future__ import annotations

import re
from typing import Any

from napari_wsi_xai.models.checkpoints.layout import Layout, Tensors

__all__ = ["LAYOUTS"]

_PARTS = {
    "feature_extractor_2.*": "projection.*",
    "attention.0": "attention_V",
    "attention.2": "attention_w",
    "classifier.0": "classifier",
}
_EXTRACTOR = re.compile(r"feature_extractor(_x\d+)?\..*")
_LAYER = re.compile(r"class_predictor\.feature_extractor_2\.(\d+)\.weight")


def _arguments(tensors: Tensors) -> dict[str, Any]:
    layers = {int(m[1]): m[0] for m in map(_LAYER.fullmatch, tensors) if m}
    weights = [tensors[layers[number]] for number in sorted(layers)]
    logits = tensors["class_predictor.classifier.0.weight"].shape[0]
    return {
        "in_features": weights[0].shape[1],
        "num_classes": max(2, logits),
        "single_logit": logits == 1,
        "projection": [weight.shape[0] for weight in weights],
        "attention": tensors["class_predictor.attention.0.weight"].shape[0],
        "num_magnifications": _magnifications(tensors),
    }


def _magnifications(tensors: Tensors) -> int:
    """One an extractor; two where they are left out, as the head for one comes with a branch."""
    extractors = {m[1] for m in map(_EXTRACTOR.fullmatch, tensors) if m}
    if extractors:
        return len(extractors)
    return 1 if any(name.startswith("domain_predictor.") for name in tensors) else 2


LAYOUTS = (
    Layout(
        "msmil",
        "takeuchi-lab/MS-DA-MIL-CNN MSDAMIL, DAMIL",
        {
            f"class_predictor.{theirs}.{kind}": f"{ours}.{kind}"
            for theirs, ours in _PARTS.items()
            for kind in ("weight", "bias")
        },
        _arguments,
        ignored=(_EXTRACTOR.pattern, r"domain_predictor\..*"),
    ),
)

"""Instance-space heads: one linear classifier, whatever it is called."""

from __future__ import annotations

from typing import Any

from napari_wsi_xai.models.checkpoints.layout import Layout, Tensors

__all__ = ["LAYOUTS"]


def _layout(architecture: str, classifier: str) -> Layout:
    def arguments(tensors: Tensors) -> dict[str, Any]:
        logits, in_features = tensors[f"{classifier}.weight"].shape
        return {
            "in_features": in_features,
            "num_classes": max(2, logits),
            "single_logit": logits == 1,
        }

    return Layout(
        architecture,
        f"a linear classifier {classifier!r}",
        {f"{classifier}.{leaf}": f"classifier.{leaf}" for leaf in ("weight", "bias")},
        arguments,
    )


LAYOUTS = tuple(
    _layout(architecture, classifier)
    for architecture in ("mean", "max", "mil-sil")
    for classifier in ("classifier", "fc")
)
"""The tensors do not tell how tiles are pooled: whoever opens them says it."""

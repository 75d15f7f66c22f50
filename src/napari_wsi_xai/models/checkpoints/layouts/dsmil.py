"""DSMIL as its authors' code names it (binli123/dsmil-wsi)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from napari_wsi_xai.models.checkpoints.layout import Layout, Tensors

__all__ = ["LAYOUTS"]


def _arguments(fc: str, q: str, nonlinear: bool) -> Any:
    def arguments(tensors: Tensors) -> dict[str, Any]:
        logits, in_features = tensors[f"i_classifier.{fc}.weight"].shape
        return {
            "in_features": in_features,
            "num_classes": max(2, logits),
            "single_logit": logits == 1,
            "hidden": tensors[f"b_classifier.{q}.weight"].shape[0],
            "nonlinear": nonlinear,
            "passing_v": "b_classifier.v.1.weight" in tensors,
        }

    return arguments


def _flatten_decision(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A convolution as long as the descriptor is linear in all classes' descriptors."""
    name = "classifier.weight"
    return {**tensors, name: tensors[name].flatten(1)}


def _layout(instances: str, fc: str, nonlinear: bool) -> Layout:
    queries = ("q.0", "q.2") if nonlinear else ("q",)
    modules = {f"i_classifier.{fc}": "tile_classifier"}
    modules |= {f"b_classifier.{q}": f"query.{2 * i}" for i, q in enumerate(queries)}
    modules |= {"b_classifier.v.1": "value.1", "b_classifier.fcc": "classifier"}
    kinds = ("weight", "bias")
    return Layout(
        "dsmil",
        f"binli123/dsmil-wsi MILNet({instances}), {'two-layer' if nonlinear else 'linear'} queries",
        {
            f"{theirs}.{kind}": f"{ours}.{kind}"
            for theirs, ours in modules.items()
            for kind in kinds
        },
        _arguments(fc, queries[0], nonlinear),
        optional=frozenset(f"b_classifier.v.1.{kind}" for kind in kinds),
        ignored=(r"i_classifier\.feature_extractor\..*",),
        convert=_flatten_decision,
    )


LAYOUTS = (
    _layout("FCLayer", "fc.0", nonlinear=True),
    _layout("FCLayer", "fc.0", nonlinear=False),
    _layout("IClassifier", "fc", nonlinear=True),
    _layout("IClassifier", "fc", nonlinear=False),
)

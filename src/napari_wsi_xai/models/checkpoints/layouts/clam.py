"""CLAM as its authors' code names it (mahmoodlab/CLAM)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from napari_wsi_xai.models.checkpoints.layout import Layout, Tensors

__all__ = ["LAYOUTS"]

_LOSS = (r"instance_loss_fn\..*",)
"""Older checkpoints carry the tensors of the instance loss."""

_PLACES = (
    ("attention_net.3.module", 3, "dropout"),
    ("attention_net.3.module", 2, "no dropout"),
    ("attention_net.3", 3, "dropout, 'module' taken off"),
    ("attention_net.3", 2, "no dropout, 'module' taken off"),
    ("attention_net.2.module", 2, "older code, no dropout"),
    ("attention_net.2", 2, "older code, no dropout, 'module' taken off"),
)
"""Where the attention network without gate lies, and the number of its last layer: dropout
shifts numbers, and so do programs that take every ``module.`` of a name off."""


def _arguments(hidden_layer: str, gated: bool, dropout: float) -> Callable[[Tensors], Any]:
    def arguments(tensors: Tensors) -> dict[str, Any]:
        hidden, in_features = tensors["attention_net.0.weight"].shape
        single = tensors.get("classifiers.weight")
        branches = sum(1 for n in tensors if n.startswith("classifiers.") and n.endswith("weight"))
        logits = branches if single is None else single.shape[0]
        return {
            "in_features": in_features,
            "num_classes": max(2, logits),
            "single_logit": logits == 1,
            "hidden": hidden,
            "attention": tensors[f"{hidden_layer}.weight"].shape[0],
            "gated": gated,
            "dropout": dropout,
        }

    return arguments


def _layout(
    multi: bool, layers: dict[str, str], details: str, gated: bool, dropout: float
) -> Layout:
    """One head; ``layers`` are theirs and ours of the attention network, hidden layer first."""
    classifier = ("classifiers.*", "classifiers.*") if multi else ("classifiers", "classifier")
    pairs = {
        "attention_net.0": "projection",
        **layers,
        classifier[0]: classifier[1],
        "instance_classifiers.*": "instance_classifiers.*",
    }
    return Layout(
        "clam-mb" if multi else "clam-sb",
        f"mahmoodlab/CLAM CLAM_{'MB' if multi else 'SB'}, {details}",
        {f"{a}.{leaf}": f"{b}.{leaf}" for a, b in pairs.items() for leaf in ("weight", "bias")},
        _arguments(next(iter(layers)), gated, dropout),
        ignored=_LOSS,
    )


def _gated(multi: bool, number: int) -> Layout:
    net = f"attention_net.{number}"
    layers = {
        f"{net}.attention_a.0": "attention_V",
        f"{net}.attention_b.0": "attention_U",
        f"{net}.attention_c": "attention_w",
    }
    details = "gated" if number == 3 else "gated, older code, no dropout"
    return _layout(multi, layers, details, True, 0.25 if number == 3 else 0.0)


def _plain(multi: bool, place: str, last: int, details: str) -> Layout:
    layers = {f"{place}.0": "attention_V", f"{place}.{last}": "attention_w"}
    return _layout(multi, layers, f"not gated, {details}", False, 0.25 if last == 3 else 0.0)


LAYOUTS = tuple(
    layout
    for multi in (False, True)
    for layout in (
        _gated(multi, 3),
        _gated(multi, 2),
        *(_plain(multi, *place) for place in _PLACES),
    )
)

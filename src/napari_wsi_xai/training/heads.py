"""Heads with the random weights that a training begins with."""

from __future__ import annotations

import torch
from torch import nn

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil import MILModel, build_mil
from napari_wsi_xai.training.recipes import Recipe, head_arguments

__all__ = ["build_head"]

SINGLE_LOGIT = ("abmil", "abmil-gated", "chowder", "max")
"""Heads that tell two classes apart by one logit. The authors of all but ``"max"`` have it so; the
maximum over two logits a tile is prone to learn the bags by heart, the negative class then having
a tile of its own that speaks for it."""


def build_head(recipe: Recipe, length: int, num_classes: int, magnifications: int = 1) -> MILModel:
    """The head of a recipe, with weights drawn by its seed.

    Parameters
    ----------
    recipe
        Names the architecture and its arguments.
    length
        Length of a descriptor of one magnification.
    num_classes
        Number of classes; where ``single_logit`` is not set, two are told apart by one logit in
        :data:`SINGLE_LOGIT`.
    magnifications
        How many the features are of; heads that can look at several look at all.

    Raises
    ------
    BadArgumentError
        An argument does not fit the architecture.
    """
    arguments = dict(recipe.head)
    if recipe.architecture in SINGLE_LOGIT and num_classes == 2:
        arguments.setdefault("single_logit", True)
    if "num_magnifications" in head_arguments(recipe.architecture):
        arguments.setdefault("num_magnifications", magnifications)
    if recipe.architecture == "zoommil" and arguments["num_magnifications"] == 1:
        raise BadArgumentError(
            "zoommil looks into finer magnifications and the features are of one: encode the "
            "slides at several, coarse to fine."
        )
    side_by_side = arguments.get("num_magnifications", 1) if recipe.architecture == "dsmil" else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        head = build_mil(recipe.architecture, length * side_by_side, num_classes, **arguments)
        if recipe.init == "orthogonal":
            _orthogonal(head)
    return head


def _orthogonal(head: nn.Module) -> None:
    """Orthogonal weights and zero biases in every linear layer."""
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

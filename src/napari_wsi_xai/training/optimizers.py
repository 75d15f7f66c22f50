"""The recipe's optimiser."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from napari_wsi_xai.training.recipes import Recipe

__all__ = ["build_optimizer", "set_rate"]

_OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "radam": torch.optim.RAdam,
    "sgd": torch.optim.SGD,
}


def build_optimizer(
    recipe: Recipe, module: nn.Module, encoder: nn.Module | None = None
) -> torch.optim.Optimizer:
    """An optimiser over everything in ``module`` that is trained.

    The first group of parameters has the rate ``lr``; an ``encoder`` within the module makes a
    second one, whose rate is ``encoder_lr`` times whatever the schedule makes of ``lr``.
    """
    own: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    sgd = recipe.optimizer == "sgd"
    own |= {"momentum": recipe.momentum} if sgd else {"betas": recipe.betas}
    if encoder is None:
        return _OPTIMIZERS[recipe.optimizer](module.parameters(), **own)  # type: ignore[no-any-return]
    apart = {id(parameter) for parameter in encoder.parameters()}
    groups = [{"params": [p for p in module.parameters() if id(p) not in apart], "times": 1.0}]
    trained = [p for p in encoder.parameters() if p.requires_grad]
    if trained:
        groups.append({"params": trained, "times": (recipe.encoder_lr or recipe.lr) / recipe.lr})
    return _OPTIMIZERS[recipe.optimizer](groups, **own)  # type: ignore[no-any-return]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("times", 1.0)

"""Learning rates and the end of a training, told from what happened so far and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_wsi_xai.training.recipes import Recipe

__all__ = ["SCHEDULES", "best_epoch", "early_stop", "learning_rate"]

SCHEDULES = ("none", "cosine", "steps", "plateau")


def learning_rate(recipe: Recipe, epoch: int, monitored: Sequence[float]) -> float:
    r"""Learning rate of an epoch, counted from 0.

    .. math::
        \text{cosine:}\quad l_t &= l_\infty + (l_0 - l_\infty) (1 + \cos(\pi t / T)) / 2 \\
        \text{steps:}\quad l_t &= l_0 f^{\#\{m \in \text{milestones}: m \le t\}}

    ``"plateau"`` multiplies by ``lr_factor`` f whenever what is monitored has not become better
    for more than ``lr_patience`` epochs, and then counts anew; where it is never a number, never.

    Parameters
    ----------
    recipe
        ``lr`` is :math:`l_0`, ``lr_end`` :math:`l_\infty`, ``epochs`` T.
    epoch
        t.
    monitored
        What was monitored in the epochs before, larger is better.
    """
    if recipe.schedule == "cosine":
        share = (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
        return recipe.lr_end + (recipe.lr - recipe.lr_end) * share
    if recipe.schedule == "steps":
        passed = sum(milestone <= epoch for milestone in recipe.milestones)
        return recipe.lr * recipe.lr_factor**passed
    if recipe.schedule == "plateau":
        return max(recipe.lr_end, recipe.lr * recipe.lr_factor ** _plateaus(recipe, monitored))
    return recipe.lr


def _plateaus(recipe: Recipe, monitored: Sequence[float]) -> int:
    found, waited, best = 0, 0, -math.inf
    for value in monitored:
        if value > best:
            best, waited = value, 0
        elif math.isfinite(best):  # before anything is known there is nothing to wait for
            waited += 1
        if waited > recipe.lr_patience:
            found, waited = found + 1, 0
    return found


def best_epoch(monitored: Sequence[float]) -> int | None:
    """Epoch with the largest value, the first of equals; None where none is a number."""
    known = [(value, -epoch) for epoch, value in enumerate(monitored) if math.isfinite(value)]
    return -max(known)[1] if known else None


def early_stop(recipe: Recipe, monitored: Sequence[float]) -> str | None:
    """Why to stop after these epochs, in a sentence, or None to go on."""
    done, best = len(monitored), best_epoch(monitored)
    if recipe.patience is None or done < recipe.least_epochs:
        return None
    waited = done - 1 - best if best is not None else done
    if waited < recipe.patience:
        return None
    since = "was never a number" if best is None else f"was best in epoch {best + 1}"
    return f"{recipe.monitor} {since} and did not become better for {waited} epochs."

"""What makes a training the one that a folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.training.cohort import SIDES, Cohort
from napari_wsi_xai.training.facts import FeatureFacts
from napari_wsi_xai.training.recipes import Recipe
from napari_wsi_xai.training.splits import Split
from napari_wsi_xai.training.wording import listed

__all__ = ["identity_of", "require_same"]


def identity_of(
    cohort: Cohort, split: Split, recipe: Recipe, facts: FeatureFacts
) -> dict[str, Any]:
    """What must agree for a training to be gone on with."""
    sides = {side: [cohort.cases[i].slide for i in getattr(split, side)] for side in SIDES}
    geometry: dict[str, Any] = {}
    if recipe.end_to_end:
        geometry = {"tile_px": facts.tile_px, "mpps": facts.mpps}
        told = {case.slide: case.mpp for case in cohort.cases if case.mpp is not None}
        geometry |= {"slide_mpps": told} if told else {}
    return {
        "cohort": cohort.content_hash,
        "split": {"name": split.name, **sides},
        "recipe": recipe.to_dict(),
        "features": {"length": facts.length, "encoder": facts.encoder_hash, **geometry},
    }


def require_same(kept: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    """Raise where the folder holds another training; says what differs."""
    wanted = json.loads(json.dumps(wanted))
    if kept == wanted:
        return
    ours, theirs = wanted["recipe"], kept.get("recipe", {})
    names = [n for n in {**ours, **theirs} if theirs.get(n) != ours.get(n)]
    differ = [f"{n}={theirs.get(n)}, not {ours.get(n)}" for n in names]
    others = [n for n in ("cohort", "split", "features") if kept.get(n) != wanted[n]]
    raise BadArgumentError(
        f"{folder} holds a training with {listed([*differ, *(f'another {n}' for n in others)])}: "
        "give the same settings to go on with it, or another folder."
    )

"""Training and cost of every MIL head, for ``paper_tables.py``."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from zoom import head_cost, list_head_flops

from napari_wsi_xai import load_model, open_slide, score
from napari_wsi_xai.models import MIL_ARCHITECTURES, Encoder
from napari_wsi_xai.training import Cohort, given, recipe_for, train, watch_case
from napari_wsi_xai.training.look import figures_of, look_at

TILE_PX = 224
MPPS = (2.0, 1.0, 0.5)
"""5x, 10x and 20x; heads of one magnification take the last."""

LOCATED = 15
"""Slides whose maps are compared with their outlines."""

SAME_BUDGET = {
    "optimizer": "adam",
    "lr": 5e-4,
    "betas": (0.9, 0.999),
    "lookahead": 0,
    "accumulate": 1,
    "epochs": 6,
    "patience": None,
    "monitor": "val_loss",
    "schedule": "none",
    "class_balance": "none",
    "most_tiles": None,
}
"""What the reduced form gives to every head alike; losses, sizes and weight decay are the
authors'. Their own settings need hundreds of epochs."""


@dataclass(frozen=True)
class Entry:
    """A row of the table: a head, and what it is made with."""

    name: str
    architecture: str
    arguments: dict[str, Any] = field(default_factory=dict)


NARROW = {"dim": 64}
"""Width of the transformers in the reduced form: at the authors' 512, with 256 landmarks, a step of
one bag of 100 tiles takes 45 GFLOP, three quarters of a second on a core."""


def entries(k: int, full: bool) -> list[Entry]:
    """Every architecture once; DSMIL at one magnification too, ZoomMIL also opening one tile."""
    narrow = {} if full else NARROW
    several = {
        "transmil": [Entry("transmil", "transmil", narrow)],
        "xmil-transmil": [Entry("xmil-transmil", "xmil-transmil", narrow)],
        "zoommil": [Entry(f"zoommil k={n}", "zoommil", {"k_sample": n}) for n in (k, 1)],
        "dsmil": [
            Entry("dsmil", "dsmil", {"num_magnifications": 1}),
            Entry("dsmil, 3 magnifications", "dsmil"),
        ],
        "msmil": [Entry("msmil, 3 magnifications", "msmil")],
        "sparseconvmil": [
            Entry("sparseconvmil", "sparseconvmil", {"downsample": float(TILE_PX)}),
        ],
    }
    found = []
    for name in MIL_ARCHITECTURES:
        found += several.get(name, [Entry(name, name)])
    return found


def train_head(
    entry: Entry, cohort: Cohort, encoder: Encoder, seed: int, folder: Path, full: bool
) -> dict[str, Any]:
    """Train one head with one seed, and judge it on the test slides."""
    torch.set_num_threads(1)
    recipe = recipe_for(
        entry.architecture, seed=seed, **({} if full else SAME_BUDGET), **entry.arguments
    )
    split = given(cohort, seed=seed)
    start = time.perf_counter()
    result = train(cohort, split, recipe, folder, encoder, tile_px=TILE_PX, mpps=MPPS)
    seconds = time.perf_counter() - start
    test = result.metrics["test"]
    return {
        "entry": entry.name,
        "seed": seed,
        "auc": test.auc.value,
        "accuracy": test.accuracy.value,
        "weighted_f1": test.weighted_f1.value,
        "localisation": localisation(result.head, cohort, split.test),
        "probabilities": [result.probabilities[i] for i in split.test],
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),
        "training_s": seconds,
        "model": str(result.model),
    }


def localisation(head, cohort: Cohort, indices) -> float:
    """Mean over the first annotated slides of the AUC of the head's map against the outlines."""
    found = []
    annotated = [i for i in indices if cohort.cases[i].annotation is not None]
    for case in (cohort.cases[index] for index in annotated[:LOCATED]):
        slide = watch_case(case, head.magnification_use)
        maps, chance = look_at(head, slide, cohort.classes)
        values = {key: one.values for key, one in maps.items()}
        label = cohort.classes[case.label]
        found.append(figures_of(slide, values, {}, label, chance).localisation)
    known = [value for value in found if value == value]
    return statistics.fmean(known) if known else float("nan")


def cost(bundle: Path, slides: list[Path]) -> dict[str, float]:
    """Seconds and floating-point operations of whole slides, from the file to the decision."""
    model = load_model(bundle)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.encoder.module(torch.zeros(1, 3, model.tile_px, model.tile_px))
    per_tile, seconds, flops, tiles = counter.get_total_flops(), [], [], []
    for path in slides:
        start = time.perf_counter()
        with open_slide(path) as slide:
            run = score(slide, model)
            run.compute()
            seconds.append(time.perf_counter() - start)
            levels = [level.total for level in getattr(run, "levels", (run,))]
            flops.append(sum(levels) * per_tile + head_flops(model.mil, run, levels))
        tiles.append(sum(levels))
    return {
        "seconds": statistics.median(seconds),
        "gflop": statistics.median(flops) / 1e9,
        "tiles": statistics.median(tiles),
    }


def head_flops(head, run, levels: list[int]) -> float:
    """Of a head on a finished run; side by side, descriptors of all magnifications make one."""
    if head.magnification_use == "single":
        return head_cost(head, run)[1]
    if head.magnification_use == "concat":
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            head(torch.randn(levels[-1], head.in_features))
        return counter.get_total_flops()
    return list_head_flops(head, levels)

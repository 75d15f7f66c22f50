"""Encoders trained end to end on tiles, for ``paper_tables.py``."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from napari_wsi_xai import build_encoder, load_model, open_slide, score
from napari_wsi_xai.annotations import read_geojson
from napari_wsi_xai.evaluate import tile_truth
from napari_wsi_xai.runs import FeatureBag
from napari_wsi_xai.runs.maps import map_of_tiles
from napari_wsi_xai.training import Cohort, given, recipe_for, train
from napari_wsi_xai.training.figures import localisation

WEIGHTS = {
    "SIL": {"bag_weight": 0.0, "sil_weight": 1.0},
    "MIL": {"bag_weight": 1.0, "sil_weight": 0.0},
    "MIL-SIL": {"bag_weight": 1.0, "sil_weight": 1.0},
}
AUGMENT = {"flips": True, "hue": 0.02, "saturation": 0.1, "brightness": 0.1, "contrast": 0.1}


@dataclass(frozen=True)
class TileEntry:
    """A row of the table: an encoder, and which losses it is trained with."""

    encoder: str
    method: str
    tile_px: int
    mpp: float
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the row."""
        return f"{self.encoder}, {self.method}"


def tile_entries(full: bool) -> list[TileEntry]:
    """Published networks in the full form, small ones on coarser tiles in the reduced one."""
    if full:
        names = {"bagnet9": (224, 0.5), "bagnet33": (224, 0.5), "resnet50": (224, 0.5)}
        settings = {"epochs": 30, "lr": 1e-4, "most_tiles": 64}
    else:
        names = {"bagnet9-4": (56, 2.0), "small": (112, 1.0)}
        settings = {"epochs": 3, "lr": 2e-3, "most_tiles": 32}
    settings |= {"accumulate": 4, "class_balance": "alternating"}
    return [TileEntry(n, how, *tile, settings) for n, tile in names.items() for how in WEIGHTS]


def train_tiles(entry: TileEntry, cohort: Cohort, seed: int, folder: Path) -> dict[str, Any]:
    """Train from a random start, and judge slides and tiles of the test side."""
    torch.set_num_threads(1)
    recipe = recipe_for(
        "mil-sil",
        seed=seed,
        end_to_end=True,
        augment=AUGMENT,
        monitor="val_loss",
        **entry.settings,
        **WEIGHTS[entry.method],
    )
    split = given(cohort, seed=seed)
    start = time.perf_counter()
    encoder = build_encoder(entry.encoder)
    result = train(cohort, split, recipe, folder, encoder, tile_px=entry.tile_px, mpps=(entry.mpp,))
    seconds = time.perf_counter() - start
    test = result.metrics["test"]
    right, found = judged_tiles(load_model(result.model), cohort, split.test)
    return {
        "entry": entry.name,
        "seed": seed,
        "accuracy": test.accuracy.value,
        "auc": test.auc.value,
        "tile_accuracy": right,
        "tile_auc": found,
        "best_epoch": result.best_epoch,
        "training_s": seconds,
    }


def judged_tiles(model, cohort: Cohort, indices) -> tuple[float, float]:
    """Share of tiles that are given their slide's label, and mean AUC against the outlines."""
    right, tiles, found = 0, 0, []
    for index in indices:
        case = cohort.cases[index]
        with open_slide(case.features) as slide:
            run = score(slide, model, engine="torch", precision="float32")
            run.compute()
            bag = FeatureBag.of(run)
            with torch.inference_mode():
                scores = model.mil(torch.from_numpy(bag.features)).tile_scores.numpy()
        right += int((scores.argmax(axis=1) == case.label).sum())
        tiles += len(scores)
        if case.annotation is not None:
            truth = tile_truth(read_geojson(case.annotation), run.grid)
            middle = [stride / 2 for stride in run.grid.stride_level0]
            where = run.grid.index_at(bag.coords_level0 + middle)
            tumour = map_of_tiles(scores[:, 1] - scores[:, 0], where, run.grid.shape)
            found.append(localisation(tumour, truth))
    known = [value for value in found if value == value]
    return right / tiles, statistics.fmean(known) if known else float("nan")

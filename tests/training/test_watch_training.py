"""A training that is watched: a planted bias ends it, and watching leaves no trace in weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from shapely.geometry import box

from napari_wsi_xai.annotations import Annotation, write_geojson
from napari_wsi_xai.runs import FeatureBag, write_feature_bag
from napari_wsi_xai.training import (
    Case,
    Cohort,
    EpochStore,
    Split,
    TrainResult,
    WatchSlides,
    recipe_for,
    train,
)

ROWS, COLUMNS, FEATURES, TILE = 5, 6, 8, 100
SPLIT = Split("one", tuple(range(16)), tuple(range(16, 24)), ())
RULE = "stop when attention on excluded > 0.5 for 3 epochs"


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Noise; the slides of one class have a pen mark along the top, which is outlined."""
    folder = tmp_path_factory.mktemp("biased")
    rng = np.random.default_rng(0)
    places = np.stack(np.divmod(np.arange(ROWS * COLUMNS), COLUMNS), axis=1) * TILE
    pen = Annotation(box(0, 0, COLUMNS * TILE, TILE), classification="Excluded")
    cases = []
    for number in range(24):
        features = rng.normal(0, 0.5, (len(places), FEATURES)).astype(np.float32)
        features[: COLUMNS * (number % 2), 0] += 4
        path = write_feature_bag(FeatureBag(features, places, TILE), folder / f"s{number}.h5")
        outline = folder / f"s{number}.geojson"
        write_geojson(outline, [pen])
        cases.append(Case(f"s{number}", number % 2, f"p{number}", path, annotation=outline))
    return Cohort(tuple(cases), ("normal", "tumor"))


def run(cohort: Cohort, out: Path, watch: list[WatchSlides], epochs: int = 40) -> TrainResult:
    recipe = recipe_for("abmil", epochs=epochs, lr=5e-3, patience=None)
    return train(cohort, SPLIT, recipe, out, callbacks=watch, device="cpu", tile_px=TILE, mpps=[1])


def test_the_bias_ends_the_training_and_the_result_says_why(biased: Cohort, tmp_path: Path) -> None:
    cases = [biased.cases[number] for number in (17, 19)]
    watch = WatchSlides(cases, biased.classes, rules=[RULE])
    result = run(biased, tmp_path, [watch])
    assert result.stopped_because == watch.stopped_because
    assert result.stopped_because is not None
    assert RULE in result.stopped_because
    assert len(result.history) < 40
    assert result.history[-1]["val_auc"] == 1.0
    store = EpochStore.open(tmp_path / "epochs.wsixai.zarr")
    last = store.history()[-1]
    assert last.epoch == len(result.history) == len(store)
    assert last.metrics["val_auc"] == 1.0
    assert all(figures.excluded > 0.5 for figures in last.slides.values())
    assert all(row == 0 for figures in last.slides.values() for row, _ in figures.top[:3])
    again = run(biased, tmp_path, [WatchSlides(cases, biased.classes, rules=[RULE])])
    assert again.stopped_because == result.stopped_because
    assert len(again.history) == len(result.history)


def test_weights_are_the_same_with_and_without(biased: Cohort, tmp_path: Path) -> None:
    plain = run(biased, tmp_path / "plain", [], epochs=3).head.state_dict()
    watch = WatchSlides(biased.cases[:2], biased.classes, every=5)
    watched = run(biased, tmp_path / "watched", [watch], epochs=3).head.state_dict()
    assert len(watch.history) == 9
    assert plain.keys() == watched.keys()
    assert all(torch.equal(tensor, watched[name]) for name, tensor in plain.items())

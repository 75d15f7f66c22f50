"""The shipped model on slides it has not seen, and the demo as a whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_wsi_xai.annotations import read_geojson
from napari_wsi_xai.demo import demo_model_path, make_demo_slide, run_demo
from napari_wsi_xai.demo.model import RECIPE_PATH
from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.evaluate import localisation_auc, tile_truth
from napari_wsi_xai.models import load_model
from napari_wsi_xai.runs import open_run, score
from napari_wsi_xai.training import read_recipe

UNSEEN = (501, 502)


def test_the_model_is_small_and_says_how_it_was_made():
    assert demo_model_path().stat().st_size < 2_000_000
    model = load_model(demo_model_path())
    assert model.classes == ("normal", "tumor")
    assert (model.tile_px, model.mpp) == (224, 0.5)
    training, made = model.metadata["training"], model.metadata["made_with"]
    assert training["recipe"] == read_recipe(RECIPE_PATH).to_dict()
    assert made["train"].endswith(RECIPE_PATH.name)
    assert made["labels"] == "slide labels only"
    sides = training["split"]
    assert not {*sides["train"], *sides["val"]} & {*sides["test"]}
    assert training["metrics"]["test"]["slides"] == len(sides["test"]) > 0
    assert model.metadata["held_out"]["localisation_auc_mean"] > 0.9


def test_unseen_tumour_slides_rank_above_normal_ones_and_nests_above_the_rest(tmp_path):
    model = load_model(demo_model_path())
    probabilities: dict[bool, list[float]] = {True: [], False: []}
    for seed in UNSEEN:
        for tumour in (True, False):
            demo = make_demo_slide(tmp_path / f"{seed}{tumour}.tif", seed, (2500, 2500), tumour)
            run = score(demo.path, model, precision="float32", engine="torch").compute()
            probabilities[tumour].append(run.probabilities["tumor"])
            if tumour:
                truth = tile_truth(demo.truth, run.grid)
                found = localisation_auc(
                    run.maps["tile-scores/all"], truth, run.tissue, threshold=0.3
                )
                assert found.auc > 0.85
                assert 0.3 < found.random_auc < 0.7
    assert min(probabilities[True]) > max(probabilities[False])


def test_demo_makes_all_its_files_and_takes_them_up_again(tmp_path):
    stages = set()
    first = run_demo(
        tmp_path / "demo", seed=7, size=2600, progress=lambda stage, done, of: stages.add(stage)
    )
    assert stages == {"slide", "score", "measure", "overview"}
    assert first.predicted == "tumor"
    assert first.localisation.auc > 0.85
    assert first.reused == ()
    assert len(read_geojson(first.truth)) > 0
    assert json.loads(json.dumps(first.to_dict()))["slide"] == str(first.slide)
    stored = open_run(first.store)
    assert stored.complete

    second = run_demo(tmp_path / "demo", seed=7, size=2600)
    assert second.reused == ("slide", "scores")
    assert second.probabilities == first.probabilities
    assert second.localisation == first.localisation
    again = open_run(second.store).maps
    for name, values in stored.maps.items():
        np.testing.assert_array_equal(again[name], values)


def test_demo_refuses_a_folder_of_another_slide_and_a_tiny_slide(tmp_path):
    make_demo_slide(tmp_path / "demo.tif", 1, (2000, 2000))
    with pytest.raises(BadArgumentError, match="seed 2"):
        run_demo(tmp_path, seed=2, size=2000)
    with pytest.raises(BadArgumentError, match="2000"):
        run_demo(tmp_path, size=1500)

"""Several trainings of one head, and the model that is their mean."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models import build_encoder, import_checkpoint, load_model
from napari_wsi_xai.training import ensemble
from napari_wsi_xai.training.bags import read_bag
from napari_wsi_xai.training.cohort import Cohort
from napari_wsi_xai.training.crossval import cross_validate
from napari_wsi_xai.training.ensemble import train_ensemble
from napari_wsi_xai.training.facts import FeatureFacts
from napari_wsi_xai.training.fit import train
from napari_wsi_xai.training.metrics import classification_metrics
from napari_wsi_xai.training.recipes import Recipe, recipe_for
from napari_wsi_xai.training.records import TrainProgress
from napari_wsi_xai.training.splits import hold_out, k_fold
from planted import D, planted_cohort

SMALL: dict[str, Any] = {"hidden": "8,4", "n_extreme": 3, "lr": 2e-2, "epochs": 2}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return planted_cohort(tmp_path_factory.mktemp("cohort"), (10, 10))


def chowder(**settings: Any) -> Recipe:
    return recipe_for("chowder", **{**SMALL, **settings})


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_members_are_trainings_and_their_mean_decides(cohort: Cohort, tmp_path: Path) -> None:
    split = hold_out(cohort, test=0.4, val=0.2)
    result = train_ensemble(cohort, split, chowder(seed=4), tmp_path / "e", 3)
    alone = train(cohort, split, chowder(seed=5), tmp_path / "alone")
    assert same(result.members[1].head, alone.head)
    assert result.members[1].history == alone.history
    assert not same(result.members[0].head, result.members[1].head)
    assert [m.folder.name for m in result.members] == ["member-1", "member-2", "member-3"]
    for index, chances in result.probabilities.items():
        mean = np.mean([m.probabilities[index] for m in result.members], axis=0)
        np.testing.assert_allclose(chances, mean, atol=1e-6)
    assert sorted(result.probabilities) == list(range(20))
    with result.predictions.open() as file:
        rows = list(csv.DictReader(file))
    by_name = {case.slide: i for i, case in enumerate(cohort.cases)}
    for row in rows:
        assert float(row["p_tumor"]) == result.probabilities[by_name[row["slide"]]][1]
    tested = [row for row in rows if row["side"] == "test"]
    right = sum(row["label"] == row["predicted"] for row in tested)
    assert result.metrics["test"].accuracy.value == pytest.approx(right / len(tested))
    assert result.metrics["test"] == classification_metrics(
        [cohort.cases[i].label for i in split.test],
        [result.probabilities[i] for i in split.test],
        4,
        patients=[cohort.cases[i].patient for i in split.test],
        classes=cohort.classes,
    )
    assert result.metrics != result.members[0].metrics
    assert set(result.metrics) == {"val", "test"}
    opened = import_checkpoint(result.model)
    bag = read_bag(cohort.cases[3])
    assert torch.equal(opened(bag.features).logits, result.head(bag.features).logits)
    kept = json.loads((tmp_path / "e" / "result.json").read_text())
    assert kept == json.loads(json.dumps(result.to_dict()))


def test_the_model_says_how_it_was_trained(cohort: Cohort, tmp_path: Path) -> None:
    encoder = build_encoder("small-4-8-12")
    result = train_ensemble(
        *(cohort, hold_out(cohort), chowder(epochs=1), tmp_path, 2, encoder),
        tile_px=64,
        mpps=(0.5,),
    )
    model = load_model(result.model)
    assert model.mil.architecture == "ensemble"
    assert model.mil.arguments["members"] == 2
    assert model.classes == cohort.classes
    told = model.metadata["training"]
    assert [member["seed"] for member in told["members"]] == [0, 1]
    assert [member["best_epoch"] for member in told["members"]] == [1, 1]
    assert told["recipe"]["architecture"] == "chowder"
    assert told["metrics"]["test"]["slides"] == len(hold_out(cohort).test)
    assert load_model(result.members[0].model).mil.architecture == "chowder"


def test_a_killed_ensemble_goes_on(cohort: Cohort, tmp_path: Path) -> None:
    split = hold_out(cohort)
    straight = train_ensemble(cohort, split, chowder(), tmp_path / "straight", 2)

    def die(member: int, progress: TrainProgress) -> None:
        if member == 1 and progress.epoch == 2:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train_ensemble(cohort, split, chowder(), tmp_path / "out", 2, on_progress=die)
    told: set[tuple[int, int]] = set()
    made: list[tuple[int, str]] = []

    def make(member: int, folder: Path) -> tuple[()]:
        made.append((member, folder.name))
        return ()

    gone_on = train_ensemble(
        *(cohort, split, chowder(), tmp_path / "out", 2),
        callbacks=make,
        on_progress=lambda member, progress: told.add((member, progress.epoch)),
    )
    assert told == {(1, 2)}
    assert made == [(0, "member-1"), (1, "member-2")]
    assert same(gone_on.head, straight.head)
    assert gone_on.predictions.read_bytes() == straight.predictions.read_bytes()
    more = train_ensemble(
        *(cohort, split, chowder(), tmp_path / "out", 3),
        on_progress=lambda member, progress: told.add((member, progress.epoch)),
    )
    assert told == {(1, 2), (2, 1), (2, 2)}
    assert same(more.members[1].head, straight.members[1].head)


def test_what_cannot_be_an_ensemble_is_told_before_training(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, out = hold_out(cohort), tmp_path / "out"
    with pytest.raises(BadArgumentError, match="members=0 must be at least 1"):
        train_ensemble(cohort, split, chowder(), out, 0)
    with monkeypatch.context() as patch:
        patch.setattr(ensemble, "feature_facts", lambda cohort: FeatureFacts(D, mpps=(4.0, 2.0)))
        with pytest.raises(BadArgumentError, match="'msmil' is a head over several"):
            train_ensemble(cohort, split, recipe_for("msmil"), out, 2)
    with pytest.raises(BadArgumentError, match="share one encoder, and end_to_end=True trains"):
        train_ensemble(cohort, split, recipe_for("mil-sil", end_to_end=True), out, 2)
    assert not out.exists()
    train(cohort, split, chowder(epochs=1), tmp_path / "alone")
    with pytest.raises(BadArgumentError, match="holds a training of one head: name another"):
        train_ensemble(cohort, split, chowder(), tmp_path / "alone", 2)
    train_ensemble(cohort, split, chowder(epochs=1), out, 1)
    with pytest.raises(BadArgumentError, match="holds something else: name another"):
        train(cohort, split, chowder(epochs=1), out)
    with pytest.raises(BadArgumentError, match=r"lr=0\.02, not 0\.01"):
        train_ensemble(cohort, split, chowder(epochs=1, lr=0.01), out, 1)


def test_folds_of_ensembles(cohort: Cohort, tmp_path: Path) -> None:
    splits, told = k_fold(cohort, 2), []
    made: list[tuple[int, str]] = []

    def make(fold: int, folder: Path) -> tuple[()]:
        made.append((fold, str(folder.relative_to(tmp_path))))
        return ()

    result = cross_validate(
        *(cohort, splits, chowder(epochs=1), tmp_path),
        members=2,
        callbacks=make,
        on_progress=lambda number, progress: told.append(number),
    )
    assert sorted(set(told)) == [0, 1, 2, 3]
    assert made == [(n, f"fold-{n + 1}/member-{m}") for n in (0, 1) for m in (1, 2)]
    chances = [fold.probabilities for fold in result.folds]
    with result.predictions.open() as file:
        rows = {row["slide"]: float(row["p_tumor"]) for row in csv.DictReader(file)}
    for fold, split in zip(chances, splits, strict=True):
        for index in split.test:
            assert rows[cohort.cases[index].slide] == fold[index][1]
    assert len(result.to_dict()["folds"][0]["members"]) == 2
    seeds = replace(chowder(epochs=1), seed=1)
    alone = train(cohort, splits[0], seeds, tmp_path / "alone")
    assert same(result.folds[0].members[1].head, alone.head)  # type: ignore[union-attr]

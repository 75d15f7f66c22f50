"""What a training leaves, how it ends, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from napari_wsi_xai.errors import (
    BadArgumentError,
    CohortError,
    MissingExtraError,
    ModelError,
    StoreError,
)
from napari_wsi_xai.models import build_encoder, build_mil, load_model
from napari_wsi_xai.training import fit, results
from napari_wsi_xai.training.bags import read_bag
from napari_wsi_xai.training.cohort import Cohort
from napari_wsi_xai.training.crossval import cross_validate
from napari_wsi_xai.training.facts import FeatureFacts
from napari_wsi_xai.training.fit import train
from napari_wsi_xai.training.lightning_import import import_lightning
from napari_wsi_xai.training.loaders import EpochSampler, class_weights
from napari_wsi_xai.training.losses import bag_loss
from napari_wsi_xai.training.metrics import classification_metrics
from napari_wsi_xai.training.recipes import read_recipe, recipe_for
from napari_wsi_xai.training.records import TrainProgress
from napari_wsi_xai.training.splits import Split, hold_out, k_fold, repeated
from planted import D, planted_cohort


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return planted_cohort(tmp_path, (8, 12))


def test_files_say_what_was_trained(cohort: Cohort, tmp_path: Path) -> None:
    split, recipe = hold_out(cohort, val=0.2), recipe_for("abmil", epochs=3, lr=1e-2)
    result = train(cohort, split, recipe, tmp_path / "out")
    assert read_recipe(tmp_path / "out" / "recipe.yaml") == recipe
    with result.predictions.open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["slide"] for row in rows) == sorted(case.slide for case in cohort.cases)
    sides = {cohort.cases[i].slide: s for s in ("train", "val", "test") for i in getattr(split, s)}
    for row in rows:
        chances = [float(row["p_normal"]), float(row["p_tumor"])]
        (case,) = [case for case in cohort.cases if case.slide == row["slide"]]
        bag = read_bag(case)
        expected = result.head.probabilities(result.head(bag.features).logits).tolist()
        assert chances == pytest.approx(expected)
        assert row["side"] == sides[row["slide"]]
        assert row["label"] == cohort.classes[case.label]
        assert row["predicted"] == cohort.classes[chances.index(max(chances))]
    tested = [row for row in rows if row["side"] == "test"]
    metrics = classification_metrics(
        [cohort.classes.index(row["label"]) for row in tested],
        [[float(row["p_normal"]), float(row["p_tumor"])] for row in tested],
        patients=[row["patient"] for row in tested],
        classes=cohort.classes,
    )
    assert result.metrics["test"] == metrics
    told = json.loads((tmp_path / "out" / "result.json").read_text())
    assert told["metrics"]["test"] == metrics.to_dict()


def test_best_epoch_is_kept_and_its_figures_are_true(cohort: Cohort, tmp_path: Path) -> None:
    split, recipe = hold_out(cohort, val=0.3), recipe_for("abmil", epochs=6, lr=0.3, seed=2)
    result = train(cohort, split, recipe, tmp_path / "out")
    losses = [row["val_loss"] for row in result.history]
    assert result.best_epoch == losses.index(min(losses)) + 1
    assert result.best_epoch < 6  # else it would be the last one anyway
    bags = [read_bag(cohort.cases[index]) for index in split.val]
    each = [bag_loss(result.head, result.head(bag.features).logits, bag.label) for bag in bags]
    assert float(torch.stack(each).mean().detach()) == pytest.approx(min(losses))
    best = result.history[result.best_epoch - 1]
    assert best["val_auc"] == result.metrics["val"].auc.value
    assert best["val_accuracy"] == result.metrics["val"].accuracy.value


def test_log_and_tensorboard_hold_the_history(cohort: Cohort, tmp_path: Path) -> None:
    recipe = recipe_for("clam-sb", epochs=3, hidden=8, attention=4, k_sample=2)
    result = train(cohort, hold_out(cohort, val=0.2), recipe, tmp_path / "out")
    with (tmp_path / "out" / "log.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert rows == result.history
    assert {"train_bag", "train_instance", "val_weighted_f1", "lr"} <= set(rows[0])
    for row in rows:
        total = 0.7 * row["train_bag"] + 0.3 * row["train_instance"]
        assert row["train_loss"] == pytest.approx(total, rel=1e-5)
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    points = [(event.step, event.value) for event in events.Scalars("val_loss")]
    assert [step for step, _ in points] == [1, 2, 3]
    assert [value for _, value in points] == pytest.approx([row["val_loss"] for row in rows])


def test_training_stops_early_and_stays_stopped(cohort: Cohort, tmp_path: Path) -> None:
    recipe = recipe_for("abmil", epochs=40, lr=0.5, patience=2, seed=1)
    split = hold_out(cohort, val=0.3)
    result = train(cohort, split, recipe, tmp_path / "out")
    assert len(result.history) < 40
    assert len(result.history) == result.best_epoch + 2
    assert result.stopped_because is not None
    assert "did not become better for 2 epochs" in result.stopped_because
    reports: list[TrainProgress] = []
    again = train(cohort, split, recipe, tmp_path / "out", on_progress=reports.append)
    assert not reports
    assert again.history == result.history
    assert again.stopped_because == result.stopped_because


def test_callbacks_see_the_epoch_and_stop_it(cohort: Cohort, tmp_path: Path) -> None:
    seen: list[tuple[int, float]] = []

    class Watcher(import_lightning().Callback):  # type: ignore[misc]
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            logged = float(trainer.callback_metrics["val_auc"])
            assert logged == pytest.approx(module.history[-1]["val_auc"])
            seen.append((module.epoch, module.history[-1]["val_auc"]))
            if module.epoch == 2:
                module.stop("it looks at the pen.")

    recipe, split = recipe_for("mean", epochs=5), hold_out(cohort, val=0.2)
    result = train(cohort, split, recipe, tmp_path / "out", callbacks=[Watcher()])
    assert result.stopped_because == "it looks at the pen."
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert len(result.history) == 2
    again = train(cohort, split, recipe, tmp_path / "out", callbacks=[Watcher()])
    assert again.stopped_because == "it looks at the pen."
    assert len(seen) == 2


def test_stopped_in_the_middle_of_an_epoch(cohort: Cohort, tmp_path: Path) -> None:
    class Stopper(import_lightning().Callback):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            if trainer.global_step == self.step:
                module.stop("seen enough.")

    split = hold_out(cohort, val=0.2)
    for name, step, epochs in (("first", 3, 1), ("second", len(split.train) + 3, 2)):
        stopper = Stopper()
        stopper.step = step
        recipe = recipe_for("mean", epochs=4)
        result = train(cohort, split, recipe, tmp_path / name, callbacks=[stopper])
        assert result.stopped_because == "seen enough."
        assert len(result.history) == epochs
        again = train(cohort, split, recipe, tmp_path / name)
        assert again.history == result.history
        assert again.stopped_because == "seen enough."


def test_interrupted_by_hand(cohort: Cohort, tmp_path: Path) -> None:
    recipe, split = recipe_for("mean", epochs=4), hold_out(cohort, val=0.2)

    def interrupt(progress: TrainProgress) -> None:
        if progress.epoch == 3:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(cohort, split, recipe, tmp_path / "out", on_progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    straight = train(cohort, split, recipe, tmp_path / "straight")
    assert train(cohort, split, recipe, tmp_path / "out").history == straight.history


def test_progress_rises_to_the_end(cohort: Cohort, tmp_path: Path) -> None:
    for val, name in ((0.2, "with"), (0.0, "without")):
        reports: list[TrainProgress] = []
        split = hold_out(cohort, val=val)
        train(
            cohort, split, recipe_for("mean", epochs=3), tmp_path / name, on_progress=reports.append
        )
        done = [report.slides_done for report in reports]
        assert done == sorted(done)
        assert done[-1] == reports[-1].slides_total == 3 * len(split.train)
        assert set(done) == set(range(1, 3 * len(split.train) + 1))
        assert all(report.eta_s is not None and report.eta_s >= 0 for report in reports)
        assert {report.epoch for report in reports} == {1, 2, 3}


# -- classes of unequal size ---------------------------------------------------------------


def test_class_weights_even_out_the_classes(cohort: Cohort) -> None:
    weights = class_weights(cohort, range(20))
    assert weights.tolist() == pytest.approx([20 / 16, 20 / 24])
    few = [0, *range(8, 20)]
    assert class_weights(cohort, few).tolist() == pytest.approx([13 / 2, 13 / 24])
    with pytest.raises(CohortError, match="no slide of normal"):
        class_weights(cohort, range(8, 20))


def test_sampler_draws_the_rare_class_as_often() -> None:
    shares = torch.tensor([10.0] * 10 + [1.0] * 100)
    sampler = EpochSampler(110, 3, shares)
    rare = 0
    for epoch in range(40):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert order == list(sampler)
        rare += sum(place < 10 for place in order)
    assert rare / (40 * 110) == pytest.approx(0.5, abs=0.03)
    plain = EpochSampler(9, 3)
    orders = []
    for epoch in range(3):
        plain.set_epoch(epoch)
        orders.append(list(plain))
        assert sorted(orders[-1]) == list(range(9))
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("balance", ["none", "weighted", "sampler"])
def test_balance_is_reported(cohort: Cohort, tmp_path: Path, balance: str) -> None:
    split = hold_out(cohort, val=0.2)
    recipe = recipe_for("mean", epochs=1, class_balance=balance)
    result = train(cohort, split, recipe, tmp_path / "out")
    assert result.balance["slides"] == cohort.counts(split.train)
    assert result.balance["class_balance"] == balance
    assert result.balance["weights"] == pytest.approx(class_weights(cohort, split.train).tolist())


def test_weights_change_what_is_trained(cohort: Cohort, tmp_path: Path) -> None:
    split = Split("all", tuple(range(20)), (), ())
    found = {}
    for balance in ("none", "weighted"):
        recipe = recipe_for("mean", epochs=1, lr=1e-9, monitor="train_loss", class_balance=balance)
        result = train(cohort, split, recipe, tmp_path / balance)
        found[balance] = result.history[0]["train_loss"]
    bags = [read_bag(case) for case in cohort.cases]
    each = [
        float(bag_loss(result.head, result.head(b.features).logits, b.label).detach()) for b in bags
    ]
    assert found["none"] == pytest.approx(sum(each) / 20, rel=1e-4)
    weighed = sum(20 / 16 * loss for loss in each[:8]) + sum(20 / 24 * loss for loss in each[8:])
    assert found["weighted"] == pytest.approx(weighed / 20, rel=1e-4)


# -- models --------------------------------------------------------------------------------


def test_head_alone_says_what_it_is(cohort: Cohort, tmp_path: Path) -> None:
    split = hold_out(cohort, val=0.2)
    result = train(cohort, split, recipe_for("dsmil", epochs=1, hidden=8), tmp_path / "out")
    assert result.model.name == "head.safetensors"
    with safe_open(result.model, "pt") as file:
        about = json.loads(file.metadata()["napari_wsi_xai_head"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    head = build_mil(about["architecture"], **about["arguments"])
    head.load_state_dict(state)
    bag = read_bag(cohort.cases[0])
    assert torch.equal(head(bag.features).logits, result.head(bag.features).logits)
    assert about["classes"] == list(cohort.classes)
    training = about["metadata"]["training"]
    assert training["split"]["test"] == [cohort.cases[i].slide for i in split.test]
    assert training["cohort"] == cohort.content_hash
    assert training["metrics"]["test"] == result.metrics["test"].to_dict()
    assert training["recipe"]["weight_decay"] == 1e-3


def test_bundle_with_the_encoder(cohort: Cohort, tmp_path: Path) -> None:
    encoder = build_encoder("small-4-8-12")
    assert encoder.dim == D
    split, recipe = hold_out(cohort, val=0.2), recipe_for("abmil", epochs=1)
    with pytest.raises(BadArgumentError, match=r"do not say how tiles were cut: give"):
        train(cohort, split, recipe, tmp_path / "a", encoder)
    train(cohort, split, recipe, tmp_path / "out")
    result = train(cohort, split, recipe, tmp_path / "out", encoder, tile_px=64, mpps=(0.5,))
    model = load_model(result.model)
    assert (model.tile_px, model.mpp, model.classes) == (64, 0.5, cohort.classes)
    assert model.encoder.content_hash == encoder.content_hash
    assert model.metadata["trained"] is True
    assert model.metadata["training"]["best_epoch"] == 1
    bag = read_bag(cohort.cases[0])
    assert torch.equal(model.mil(bag.features).logits, result.head(bag.features).logits)
    with pytest.raises(BadArgumentError, match="descriptors of length 20, but the features are 12"):
        train(cohort, split, recipe, tmp_path / "out", build_encoder("small-4-20"))


def test_encoder_is_found_by_what_stores_say() -> None:
    seeded = build_encoder(replace(build_encoder("small-4-8-12").spec, seed=7))
    facts = FeatureFacts(12, seeded.name, seeded.content_hash, 64, (0.5,))
    found = results.find_encoder(facts)
    assert found is not None
    assert found.content_hash == seeded.content_hash
    assert results.find_encoder(replace(facts, encoder_hash="sha256:other")) is None
    assert results.find_encoder(replace(facts, encoder="small (weights of mine.pth)")) is None
    assert results.find_encoder(replace(facts, encoder=None)) is None
    other = build_encoder("small-4-8-12")
    with pytest.raises(BadArgumentError, match="the features were made with encoder"):
        fit.check_encoder(other, facts)
    with pytest.raises(BadArgumentError, match="tile_px=32 does not fit: the features say 64"):
        fit.with_geometry(facts, 32, None)


def test_without_validation_the_last_epoch_is_kept(cohort: Cohort, tmp_path: Path) -> None:
    """Also where the monitored figure is never defined, validation slides being of one class."""
    whole = hold_out(cohort, val=0)
    one_class = replace(whole, train=whole.train[1:], val=whole.train[:1])
    for name, split in (("none", whole), ("one", one_class)):
        recipe = recipe_for("mean", epochs=3, lr=1e-2, monitor="val_auc")
        result = train(cohort, split, recipe, tmp_path / name)
        kept = torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"]
        assert result.best_epoch == 3
        for key, tensor in result.head.state_dict().items():
            assert torch.equal(tensor, kept[f"head.{key}"])


def test_a_training_that_diverges_says_so(cohort: Cohort, tmp_path: Path) -> None:
    recipe = recipe_for("abmil", epochs=3, lr=1e30)
    with pytest.raises(ModelError, match=r"(normal|tumor)\d+: .* diverged: take a lower lr"):
        train(cohort, hold_out(cohort, val=0), recipe, tmp_path / "out")


# -- what is refused -----------------------------------------------------------------------


def test_bags_that_do_not_fit_name_the_slide(tmp_path: Path) -> None:
    cohort = planted_cohort(tmp_path, (5, 5), count=6)
    with pytest.raises(ModelError, match=r"(normal|tumor)0\d: k_sample=8 .* bag of 6 tiles"):
        train(cohort, hold_out(cohort), recipe_for("clam-sb", epochs=1), tmp_path / "out")


def test_what_is_not_installed_is_told(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"'tensorboard': pip install .*\[train\]"):
        train(cohort, hold_out(cohort), recipe_for("mean", epochs=1), tmp_path / "out")


def test_a_damaged_checkpoint_is_named(cohort: Cohort, tmp_path: Path) -> None:
    split, recipe = hold_out(cohort, val=0.2), recipe_for("mean", epochs=1)
    train(cohort, split, recipe, tmp_path / "out")
    (tmp_path / "out" / "last.ckpt").write_bytes(b"nothing")
    with pytest.raises(StoreError, match=r"last\.ckpt cannot be read: delete the folder"):
        train(cohort, split, recipe, tmp_path / "out")


def test_patients_on_two_sides_are_refused(cohort: Cohort, tmp_path: Path) -> None:
    cases = tuple(replace(case, patient="one") for case in cohort.cases)
    split = Split("bad", tuple(range(4, 16)), (), (0, 1, 2, 3, 16))
    with pytest.raises(CohortError, match="'bad' has patients on several sides: one"):
        train(replace(cohort, cases=cases), split, recipe_for("mean"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- cross-validation ----------------------------------------------------------------------


def test_cross_validation_goes_on_by_fold(cohort: Cohort, tmp_path: Path) -> None:
    splits, recipe = k_fold(cohort, 3), recipe_for("abmil", epochs=2, lr=1e-2)
    straight = cross_validate(cohort, splits, recipe, tmp_path / "straight")

    def die(fold: int, progress: TrainProgress) -> None:
        if fold == 1 and progress.epoch == 2:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        cross_validate(cohort, splits, recipe, tmp_path / "out", on_progress=die)
    told: list[tuple[int, int]] = []
    gone_on = cross_validate(
        cohort,
        splits,
        recipe,
        tmp_path / "out",
        on_progress=lambda fold, progress: told.append((fold, progress.epoch)),
    )
    assert set(told) == {(1, 2), (2, 1), (2, 2)}
    assert [fold.history for fold in gone_on.folds] == [fold.history for fold in straight.folds]
    assert gone_on.predictions.read_bytes() == straight.predictions.read_bytes()
    assert gone_on.pooled == straight.pooled


def test_slides_that_are_tested_twice_are_of_one_patient(cohort: Cohort, tmp_path: Path) -> None:
    splits = repeated(cohort, 2, 2)
    result = cross_validate(cohort, splits, recipe_for("mean", epochs=1), tmp_path / "out")
    assert (result.pooled.slides, result.pooled.patients) == (40, 20)


def test_pooled_figures_are_of_all_test_slides(cohort: Cohort, tmp_path: Path) -> None:
    splits = k_fold(cohort, 3)
    result = cross_validate(cohort, splits, recipe_for("abmil", epochs=1), tmp_path / "out")
    with result.predictions.open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["slide"] for row in rows) == sorted(case.slide for case in cohort.cases)
    assert {row["side"] for row in rows} == {"fold 1", "fold 2", "fold 3"}
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert result.pooled.accuracy.value == pytest.approx(right / 20)
    assert sum(map(sum, result.pooled.confusion)) == 20
    values = [fold.metrics["test"].accuracy.value for fold in result.folds]
    mean, deviation = result.spread()["accuracy"]
    assert mean == pytest.approx(sum(v for v in values if v is not None) / 3)
    assert deviation is not None
    empty = Split("none", tuple(range(20)), (), ())
    with pytest.raises(BadArgumentError, match="'none' has no test slides"):
        cross_validate(cohort, [empty], recipe_for("mean"), tmp_path / "no")

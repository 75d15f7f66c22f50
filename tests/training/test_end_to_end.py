"""Training encoder and head together: steps, files, resumption."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_wsi_xai.errors import BadArgumentError, CohortError, ModelError
from napari_wsi_xai.models import EncoderSpec, build_encoder, load_model
from napari_wsi_xai.models.encoders.encoder import Encoder, encoder_tensors
from napari_wsi_xai.models.tensor_files import hash_tensors
from napari_wsi_xai.runs import score
from napari_wsi_xai.training import Case, Cohort, Split, cross_validate, hold_out, recipe_for, train
from napari_wsi_xai.training.heads import build_head
from napari_wsi_xai.training.losses import bag_loss, training_loss
from napari_wsi_xai.training.records import TrainProgress
from napari_wsi_xai.training.slide_tiles import tiles_of

from test_resume import same  # isort: skip
from tile_cohort import MPP, TILE, tile_cohort  # isort: skip

SPEC = EncoderSpec("small", "small-6-8", weights=None, seed=3)
CUT: dict[str, Any] = {"tile_px": TILE, "mpps": [MPP]}
PLAIN: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "monitor": "train_loss",
    "end_to_end": True,
    "lr": 0.1,
}
FIRST = Split("first", (0, 1, 2, 3), (), ())


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]) -> Cohort:
    return tile_cohort(tmp_path_factory.mktemp("tiles"), write_slide)


def encoder() -> Encoder:
    return build_encoder(SPEC)


def checkpoint(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "last.ckpt", weights_only=True)
    return state


def network_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    beginning = "encoder.network."
    return {n.removeprefix(beginning): t for n, t in state.items() if n.startswith(beginning)}


def test_the_bundle_scores_as_in_training(cohort: Cohort, tmp_path: Path) -> None:
    start = encoder()
    before = hash_tensors(start.module.state_dict())
    split = hold_out(cohort, test=0.25, val=0.25)
    recipe = recipe_for("abmil-gated", end_to_end=True, epochs=2, accumulate=2, hidden=8)
    result = train(cohort, split, recipe, tmp_path / "out", start, **CUT)
    assert hash_tensors(start.module.state_dict()) == before
    assert not any(p.requires_grad for p in start.module.parameters())
    assert not start.module.training
    assert result.model.name == "model.safetensors"
    model = load_model(result.model)
    assert "trained end to end" in model.encoder.name
    assert model.encoder.content_hash != start.content_hash
    assert result.encoder is not None
    assert model.encoder.content_hash == result.encoder.content_hash
    assert (model.tile_px, model.mpp) == (TILE, MPP)
    told = model.metadata["training"]
    assert told["recipe"] == recipe.to_dict()
    assert told["start"] == {"encoder": start.name, "encoder_hash": start.content_hash}
    with result.predictions.open() as file:
        rows = {row["slide"]: row for row in csv.DictReader(file)}
    assert len(rows) == len(cohort)
    for case in cohort.cases[:3]:
        run = score(case.features, model, precision="float32", engine="torch").compute()
        row = rows[case.slide]
        assert {n: float(row[f"p_{n}"]) for n in model.classes} == pytest.approx(
            run.probabilities, abs=1e-4
        )


def test_a_step_goes_along_the_mean_gradient_of_bags_encoded_together(
    cohort: Cohort, tmp_path: Path
) -> None:
    start = encoder()
    recipe = recipe_for("mean", accumulate=4, epochs=1, encoder_lr=0.3, **PLAIN)
    train(cohort, FIRST, recipe, tmp_path / "out", start, **CUT)
    after = checkpoint(tmp_path / "out")["state_dict"]

    network = build_encoder(SPEC).module.train().requires_grad_(True)
    head = build_head(recipe, start.dim, 2)
    order = [tiles_of(cohort.cases[i], TILE, MPP).bag() for i in FIRST.train]
    pixels = torch.cat([bag.features for bag in order])  # type: ignore[misc]
    parts = network(start.to_input(pixels)).split([bag.tiles for bag in order])
    losses = [
        bag_loss(head, head(part).logits, bag.label) for part, bag in zip(parts, order, strict=True)
    ]
    torch.stack(losses).mean().backward()
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(after[f"head.{name}"], parameter - 0.1 * parameter.grad)
    moved = network_of(after)
    for name, parameter in network.named_parameters():
        expected = parameter.detach() - 0.3 * parameter.grad
        torch.testing.assert_close(moved[name], expected, rtol=1e-3, atol=1e-5)
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(moved[name], buffer)  # statistics of all bags as one batch


def test_rates_of_encoder_and_head_follow_one_schedule(cohort: Cohort, tmp_path: Path) -> None:
    schedule = {"schedule": "steps", "milestones": "1", "lr_factor": 0.5}
    recipe = recipe_for("mean", epochs=2, encoder_lr=0.01, **PLAIN, **schedule)
    result = train(cohort, FIRST, recipe, tmp_path / "out", encoder(), **CUT)
    assert [row["lr"] for row in result.history] == pytest.approx([0.1, 0.05])
    (optimizer,) = checkpoint(tmp_path / "out")["optimizer_states"]
    rates = [group["lr"] for group in optimizer["param_groups"]]
    assert rates == pytest.approx([0.05, 0.005])


def test_frozen_parts_stay_as_they_are(cohort: Cohort, tmp_path: Path) -> None:
    settings = {**PLAIN, "epochs": 1, "accumulate": 2}
    start = encoder().module.state_dict()
    for frozen, name in (("features.0", "part"), ("all", "all")):
        recipe = recipe_for("mean", frozen=frozen, **settings)
        train(cohort, FIRST, recipe, tmp_path / name, encoder(), **CUT)
    part, whole = (network_of(checkpoint(tmp_path / n)["state_dict"]) for n in ("part", "all"))
    assert same(dict(start), whole)
    for name, tensor in start.items():
        assert torch.equal(part[name], tensor) == name.startswith("features.0."), name
    recipe = recipe_for("mean", frozen="layer1,all", **settings)
    with pytest.raises(BadArgumentError, match=r"frozen=layer1: .* features\.0, features\.1"):
        train(cohort, FIRST, recipe, tmp_path / "wrong", encoder(), **CUT)


CHILD = """
import json, os, signal, sys
from pathlib import Path
from napari_wsi_xai.models import EncoderSpec, build_encoder
from napari_wsi_xai.training import hold_out, read_cohort, recipe_for, train

place, out, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
cohort = read_cohort(place / "cohort.csv", place / "slides")

def die(progress):
    if progress.epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)

train(cohort, hold_out(cohort, test=0.25, val=0.25), recipe_for("abmil", **settings), out,
      build_encoder(EncoderSpec("small", "small-6-8", seed=3)), tile_px=48, mpps=[0.5],
      on_progress=die)
"""


def test_killed_and_gone_on_with_equals_never_killed(cohort: Cohort, tmp_path: Path) -> None:
    settings = {
        "end_to_end": True,
        "epochs": 4,
        "accumulate": 2,
        "class_balance": "alternating",
        "most_tiles": 12,
        "hidden": 8,
        "lr": 1e-2,
        "frozen": "features.0",
        "augment": {"flips": True, "hue": 0.05, "contrast": 0.2},
    }
    place = cohort.cases[0].features.parents[1]
    words = [str(place), str(tmp_path / "killed"), json.dumps(settings)]
    child = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    split, recipe = hold_out(cohort, test=0.25, val=0.25), recipe_for("abmil", **settings)
    straight = train(cohort, split, recipe, tmp_path / "straight", encoder(), **CUT)
    reports: list[TrainProgress] = []
    gone_on = train(
        cohort, split, recipe, tmp_path / "killed", encoder(), on_progress=reports.append, **CUT
    )
    slides = sum(map(len, (split.train, split.val, split.test)))
    finding = [f"finding tissue, {done} of {slides} slides" for done in range(1, slides + 1)]
    assert [one.before for one in reports[: slides + 1]] == [*finding, ""]
    assert {(one.epoch, one.slides_done) for one in reports[:slides]} == {(0, 0)}
    assert reports[slides].epoch == 3
    ours, theirs = checkpoint(tmp_path / "killed"), checkpoint(tmp_path / "straight")
    for part in ("state_dict", "optimizer_states", "training"):
        assert same(ours[part], theirs[part]), part
    assert gone_on.history == straight.history
    assert gone_on.model.read_bytes() == straight.model.read_bytes()
    assert gone_on.predictions.read_bytes() == straight.predictions.read_bytes()


def test_encoder_and_head_of_the_best_epoch_are_kept(cohort: Cohort, tmp_path: Path) -> None:
    flipped = [replace(case, label=1 - case.label) for case in cohort.cases[4:]]
    cohort = Cohort((*cohort.cases[:4], *flipped), cohort.classes)  # worse the more it learns
    split = Split("one", (0, 1, 2, 3), (4, 5, 6, 7), ())
    recipe = recipe_for("mean", end_to_end=True, epochs=6, accumulate=2, lr=0.03)
    result = train(cohort, split, recipe, tmp_path / "out", encoder(), **CUT)
    losses = [row["val_loss"] for row in result.history]
    assert result.best_epoch == losses.index(min(losses)) + 1
    assert result.best_epoch < 6
    assert result.encoder is not None
    found = []
    with torch.no_grad():
        for index in split.val:
            bag = tiles_of(cohort.cases[index], TILE, MPP).bag()
            features = result.encoder.module(result.encoder.to_input(bag.features))  # type: ignore[arg-type]
            found.append(
                float(training_loss(result.head, replace(bag, features=features), bag.label)["bag"])
            )
    assert sum(found) / len(found) == pytest.approx(min(losses), rel=1e-4)
    last = network_of(checkpoint(tmp_path / "out")["state_dict"])
    kept = encoder_tensors(result.encoder.module)
    assert any(not torch.equal(last[name], tensor) for name, tensor in kept.items())


def test_it_learns_what_tells_classes_apart(cohort: Cohort, tmp_path: Path) -> None:
    recipe = recipe_for(
        "mil-sil",
        end_to_end=True,
        sil_weight=0.0,
        epochs=12,
        accumulate=2,
        class_balance="alternating",
        lr=3e-2,
    )
    split = Split("some", (0, 1, 2, 3), (), (4, 5, 6, 7))
    result = train(cohort, split, recipe, tmp_path / "out", encoder(), **CUT)
    assert result.history[-1]["train_loss"] < 0.6 * result.history[0]["train_loss"]
    assert result.metrics["test"].auc.value == 1.0


def test_folds_are_trained_each_from_the_start(cohort: Cohort, tmp_path: Path) -> None:
    splits = [Split("a", (0, 1), (), (2, 3)), Split("b", (2, 3), (), (0, 1))]
    recipe = recipe_for("mean", epochs=1, **PLAIN)
    start = encoder()
    crossed = cross_validate(cohort, splits, recipe, tmp_path / "folds", start, **CUT)
    alone = train(cohort, splits[1], recipe, tmp_path / "alone", start, **CUT)
    assert [sorted(fold.probabilities) for fold in crossed.folds] == [[0, 1, 2, 3]] * 2
    assert crossed.folds[1].probabilities == alone.probabilities
    assert load_model(tmp_path / "folds" / "fold-2" / "model.safetensors").content_hash == (
        load_model(alone.model).content_hash
    )


def test_workers_and_halves(cohort: Cohort, tmp_path: Path) -> None:
    split = Split("one", (0, 1, 2, 3), (4, 5), ())
    settings = {"end_to_end": True, "epochs": 2, "accumulate": 2, "most_tiles": 9, "hidden": 8}
    recipe = recipe_for("abmil", **settings)
    alone = train(cohort, split, recipe, tmp_path / "alone", encoder(), **CUT)
    helped = train(cohort, split, recipe, tmp_path / "helped", encoder(), workers=1, **CUT)
    assert helped.history == alone.history
    assert helped.probabilities == alone.probabilities
    mixed = recipe_for("abmil", precision="bf16-mixed", **settings)
    rough = train(cohort, split, mixed, tmp_path / "mixed", encoder(), **CUT)
    for one, other in zip(rough.history, alone.history, strict=True):
        assert one["train_loss"] != other["train_loss"]
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.03)
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=0.03)


def test_another_start_or_cut_is_another_training(cohort: Cohort, tmp_path: Path) -> None:
    recipe = recipe_for("mean", epochs=1, **PLAIN)
    train(cohort, FIRST, recipe, tmp_path / "out", encoder(), **CUT)
    other = build_encoder(EncoderSpec("small", "small-6-8", seed=4))
    for start, cut in ((other, CUT), (encoder(), {**CUT, "tile_px": 64})):
        with pytest.raises(BadArgumentError, match="another features"):
            train(cohort, FIRST, recipe, tmp_path / "out", start, **cut)


def test_what_cannot_be_trained_end_to_end_says_so(cohort: Cohort, tmp_path: Path) -> None:
    recipe = recipe_for("mean", epochs=1, **PLAIN)
    out = tmp_path / "out"
    with pytest.raises(BadArgumentError, match="give the one to begin with"):
        train(cohort, FIRST, recipe, out)
    with pytest.raises(BadArgumentError, match="one magnification"):
        train(cohort, FIRST, recipe, out, encoder(), mpps=[2.0, 0.5])
    zoom = recipe_for("zoommil", end_to_end=True, num_magnifications=2, epochs=1)
    with pytest.raises(BadArgumentError, match="zoommil head looks at several"):
        train(cohort, FIRST, zoom, out, encoder(), **CUT)
    alone = recipe_for("mean", epochs=1, most_tiles=1, **PLAIN)
    with pytest.raises(ModelError, match=r"^s\d: Expected more than 1 value"):
        train(cohort, FIRST, alone, out, encoder(), tile_px=8, mpps=[MPP])


def test_slides_that_cannot_be_used_are_named(
    cohort: Cohort, tmp_path: Path, write_slide: Callable[..., Path]
) -> None:
    white = np.full((384, 384, 3), 244, np.uint8)
    empty = write_slide(tmp_path / "empty.ome.tif", white)
    unknown = write_slide(tmp_path / "unknown.ome.tif", white, mpp=None)
    cases = (
        *cohort.cases[:2],
        Case("empty", 0, "a", empty),
        Case("unknown", 1, "b", unknown),
    )
    wrong = Cohort(cases, cohort.classes)
    recipe = recipe_for("mean", epochs=1, **PLAIN)
    with pytest.raises(CohortError, match=r"2 of 4 slides.*empty \(.*unknown \(") as caught:
        train(wrong, FIRST, recipe, tmp_path / "out", encoder(), **CUT)
    assert "no tissue" in str(caught.value)
    assert not (tmp_path / "out").exists()
    described = Cohort(
        (*cohort.cases[:2], Case("h", 0, "c", Path("h.h5")), cases[2]), cohort.classes
    )
    with pytest.raises(CohortError, match=r"^h: only descriptors"):
        train(described, FIRST, recipe, tmp_path / "out", encoder(), **CUT)

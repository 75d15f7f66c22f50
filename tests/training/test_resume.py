"""A training that is killed and gone on with is the training that was never killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.training.cohort import read_cohort
from napari_wsi_xai.training.fit import train
from napari_wsi_xai.training.recipes import recipe_for
from napari_wsi_xai.training.records import TrainProgress
from napari_wsi_xai.training.splits import hold_out

from planted import planted_cohort  # isort: skip

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "adam, dropout, drawn tiles": (
        "clam-sb",
        {
            "hidden": 8,
            "attention": 6,
            "k_sample": 3,
            "lr": 1e-2,
            "most_tiles": 12,
            "class_balance": "weighted",
            "monitor": "val_auc",
        },
    ),
    "radam, lookahead, accumulated bags, sampler, plateaus": (
        "transmil",
        {
            "dim": 16,
            "heads": 2,
            "lr": 1e-2,
            "lookahead": 3,
            "accumulate": 3,
            "class_balance": "sampler",
            "schedule": "plateau",
            "lr_patience": 0,
            "clip": 1.0,
        },
    ),
    "sgd, cosine, shuffled pseudo-bags, no validation": (
        "dtfd",
        {
            "hidden": 8,
            "attention": 6,
            "optimizer": "sgd",
            "schedule": "cosine",
            "lr": 1e-2,
            "monitor": "train_loss",
        },
    ),
}

CHILD = """
import json, os, signal, sys
from pathlib import Path
from napari_wsi_xai.training.cohort import read_cohort
from napari_wsi_xai.training.fit import train
from napari_wsi_xai.training.recipes import recipe_for
from napari_wsi_xai.training.splits import hold_out

place, name, settings, val = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
cohort = read_cohort(place / "cohort.csv", place / "features")
bags = []

def die_in_epoch_3(progress):
    bags.append(progress)
    if progress.slides_done == 2 * progress.slides_total // progress.epochs + 4:
        os.kill(os.getpid(), signal.SIGKILL)

train(cohort, hold_out(cohort, val=float(val)), recipe_for(name, **settings), place / "killed",
      on_progress=die_in_epoch_3)
"""


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, whatever is nested in them."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("case", SETTINGS)
def test_killed_and_gone_on_with_equals_never_killed(case: str, tmp_path: Path) -> None:
    name, settings = SETTINGS[case]
    settings = {**settings, "epochs": 4, "patience": None}
    planted_cohort(tmp_path, (7, 11))
    cohort = read_cohort(tmp_path / "cohort.csv", tmp_path / "features")
    val = 0.0 if "no validation" in case else 0.2
    split, recipe = hold_out(cohort, val=val), recipe_for(name, **settings)
    straight = train(cohort, split, recipe, tmp_path / "straight")
    words = [str(tmp_path), name, json.dumps(settings), str(val)]
    child = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    killed = tmp_path / "killed"
    begun = (killed / "log.csv").read_text().splitlines()
    assert len(begun) == 3  # the header and two epochs
    assert not (killed / "result.json").exists()

    reports: list[TrainProgress] = []
    gone_on = train(cohort, split, recipe, killed, on_progress=reports.append)
    assert reports[0].epoch == 3
    assert reports[0].slides_done == 2 * len(split.train) + 1
    assert (reports[-1].slides_done, reports[-1].eta_s) == (4 * len(split.train), 0)
    assert same(gone_on.head.state_dict(), straight.head.state_dict())
    log = (tmp_path / "straight" / "log.csv").read_text()
    assert (killed / "log.csv").read_text() == log
    assert log.splitlines()[:3] == begun
    assert gone_on.history == straight.history
    ours, theirs = (
        torch.load(folder / "last.ckpt", weights_only=True)
        for folder in (killed, tmp_path / "straight")
    )
    for part in ("state_dict", "optimizer_states", "training", "global_step"):
        assert same(ours[part], theirs[part]), part
    events = EventAccumulator(str(killed / "tensorboard"))
    events.Reload()
    points = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert [step for step, _ in points] == [1, 2, 3, 4]
    losses = [row["train_loss"] for row in straight.history]
    assert [value for _, value in points] == pytest.approx(losses)
    predictions = [f / "predictions.csv" for f in (killed, tmp_path / "straight")]
    assert predictions[0].read_bytes() == predictions[1].read_bytes()


def test_the_seed_decides(tmp_path: Path) -> None:
    cohort = planted_cohort(tmp_path, (6, 6))
    split = hold_out(cohort, val=0.2)
    heads = [
        train(cohort, split, recipe_for("abmil", epochs=2, seed=seed), tmp_path / name).head
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    ]
    states = [head.state_dict() for head in heads]
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    cohort = planted_cohort(tmp_path, (6, 6))
    split = hold_out(cohort, val=0.2)
    train(cohort, split, recipe_for("mean", epochs=1), tmp_path / "out")
    with pytest.raises(BadArgumentError, match=r"lr=0.0005, not 0.1: give the same settings"):
        train(cohort, split, recipe_for("mean", epochs=1, lr=0.1), tmp_path / "out")
    other = hold_out(cohort, val=0.2, seed=4)
    with pytest.raises(BadArgumentError, match="another split"):
        train(cohort, other, recipe_for("mean", epochs=1), tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadArgumentError, match="holds something else"):
        train(cohort, split, recipe_for("mean", epochs=1), tmp_path / "file")


def test_random_numbers_and_torch_stay_as_they_were(tmp_path: Path) -> None:
    cohort = planted_cohort(tmp_path, (6, 6))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    interrupt = signal.getsignal(signal.SIGINT)
    train(
        cohort, hold_out(cohort), recipe_for("transmil", dim=8, heads=2, epochs=1), tmp_path / "a"
    )
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()
    assert signal.getsignal(signal.SIGINT) is interrupt


def test_workers_change_nothing(tmp_path: Path) -> None:
    cohort = planted_cohort(tmp_path, (6, 6))
    split, recipe = hold_out(cohort, val=0.2), recipe_for("abmil", epochs=3, most_tiles=9)
    alone = train(cohort, split, recipe, tmp_path / "alone")
    helped = train(cohort, split, recipe, tmp_path / "helped", workers=2)
    assert helped.history == alone.history
    assert same(helped.head.state_dict(), alone.head.state_dict())

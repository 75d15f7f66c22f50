"""The command train, and the words it needs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from napari_wsi_xai.models import load_model
from planted import planted_cohort

Cli = Any  # the fixture of this folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    planted_cohort(tmp_path, (8, 12))
    return tmp_path


def test_train(cli: Cli, place: Path) -> None:
    words = ("train", place / "cohort.csv", "--features", place / "features", "--head", "abmil")
    result = cli(*words, "--out", place / "out", "--set", "epochs=2", "--set", "lr=1e-2")
    assert result.status == 0
    assert "trained on normal" in result.out
    assert "best epoch" in result.out
    assert "test (" in result.out
    assert "AUC" in result.out
    assert "this is the head alone" in result.err
    told = cli(*words, "--out", place / "out", "--set", "epochs=2", "--set", "lr=1e-2", "--json")
    assert told.json["epochs"] == 2
    assert told.json["balance"]["class_balance"] == "none"
    assert 0 <= told.json["metrics"]["test"]["auc"]["value"] <= 1
    assert (place / "out" / "head.safetensors").is_file()


def test_train_with_a_recipe_and_an_encoder(cli: Cli, place: Path) -> None:
    (place / "r.yaml").write_text("architecture: clam-sb\nepochs: 9\nk_sample: 3\nhidden: 8\n")
    result = cli(
        *("train", place / "cohort.csv", "--features", place / "features", "--out", place / "out"),
        *("--recipe", place / "r.yaml", "--set", "epochs=1", "--set", "class-balance=weighted"),
        *("--encoder", "small-4-8-12", "--tile-px", 64, "--tile-mpp", 0.5, "--json"),
    )
    assert result.status == 0, result.err
    model = load_model(result.json["model"])
    assert model.mil.architecture == "clam-sb"
    assert model.mil.arguments["k_sample"] == 3
    assert model.metadata["training"]["recipe"]["epochs"] == 1
    assert model.metadata["training"]["balance"]["class_balance"] == "weighted"


def test_cross_validation(cli: Cli, place: Path) -> None:
    words = ("train", place / "cohort.csv", "--features", place / "features", "--head", "mean")
    words = (*words, "--out", place / "out", "--folds", 2, "--set", "epochs=1")
    result = cli(*words)
    assert result.status == 0, result.err
    for text in ("fold 1 (10 slides)", "fold 2 (10 slides)", "all folds (20 slides)", "auc: mean"):
        assert text in result.out
    assert "split" not in result.err
    table = place / "cohort.csv"
    lines = [f"{line},{'train' if n else 'split'}" for n, line in enumerate(table.open())]
    table.write_text("\n".join(line.replace("\n", "") for line in lines))
    again = cli(*words[:-5], place / "again", *words[-4:], "--json")
    assert "the column split is not heeded" in again.err
    assert len(again.json["folds"]) == 2
    assert again.json["pooled"]["slides"] == 20


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--head", "abmi"], "'abmi' is unknown (did you mean 'abmil'?)"),
        (["--head", "abmil", "--set", "epoch=2"], "(did you mean 'epochs'?)"),
        (["--head", "abmil", "--set", "epochs"], "--set 'epochs' must be KEY=VALUE"),
        (["--head", "abmil", "--set", "architecture=mean"], "name the head with --head"),
        (["--head", "abmil", "--folds", "1"], "--folds 1 must be at least 2"),
        ([], "give --head NAME or --recipe FILE"),
        (["--head", "abmil", "--watch", "no"], "--watch no: there is no such slide"),
        (["--head", "abmil", "--rule", "stop when val_auc > 2"], "--rule needs slides"),
        (["--head", "abmil", "--encoder", "small-4-20"], "length 20, but the features are 12"),
        (["--head", "abmil", "--encoder-weights", "x"], "--encoder-weights needs --encoder"),
        (["--head", "abmil", "--device", "tpu"], "--device tpu must be"),
        (["--head", "abmil", "--workers", "-1"], "--workers -1"),
    ],
)
def test_what_is_wrong_is_said(cli: Cli, place: Path, more: list[str], words: str) -> None:
    base = ("train", place / "cohort.csv", "--features", place / "features", "--out", place / "o")
    result = cli(*base, *more)
    assert result.status == 2
    assert words in result.error
    assert not (place / "o").exists()


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(cli: Cli, place: Path) -> None:
    words = ["train", str(place / "cohort.csv"), "--features", str(place / "features")]
    words += ["--head", "abmil", "--set", "epochs=120", "--out", str(place / "out")]
    child = subprocess.Popen(
        [sys.executable, "-m", "napari_wsi_xai", *words], stderr=subprocess.PIPE, text=True
    )
    log = place / "out" / "log.csv"
    for _ in range(600):
        if log.exists() and len(log.read_text().splitlines()) > 2:
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "the same command goes on" in err
    done = len(log.read_text().splitlines()) - 1
    assert 2 <= done < 120
    first = log.read_text().splitlines()
    result = cli(*words, "--json")
    assert result.status == 0, result.err
    assert log.read_text().splitlines()[: len(first)] == first
    assert len(json.loads((place / "out" / "result.json").read_text())["history"]) == 120


def test_members(cli: Cli, place: Path) -> None:
    words = ("train", place / "cohort.csv", "--features", place / "features", "--head", "chowder")
    words = (*words, "--set", "epochs=1", "--members", 2, "--out")
    result = cli(*words, place / "out")
    assert result.status == 0, result.err
    for text in ("trained on normal", "member 2: best epoch 1 of 1", "test (", "-> "):
        assert text in result.out
    told = cli(*words, place / "out", "--json").json
    assert len(told["members"]) == 2
    assert told["model"] == str(place / "out" / "head.safetensors")
    folds = cli(*words, place / "folds", "--folds", 2, "--json").json
    assert [len(fold["members"]) for fold in folds["folds"]] == [2, 2]
    none = cli(*words, place / "none", "--members", 0)
    assert "--members 0 must be at least 1" in none.err


def test_order_of_classes_and_share_for_validation(cli: Cli, place: Path) -> None:
    words = ("train", place / "cohort.csv", "--features", place / "features", "--head", "mean")
    words = (*words, "--set", "epochs=1", "--json", "--out")
    result = cli(*words, place / "a", "--classes", "tumor, normal", "--val", 0)
    assert result.status == 0, result.err
    assert list(result.json["balance"]["slides"]) == ["tumor", "normal"]
    assert list(result.json["metrics"]) == ["test"]
    rows = (place / "a" / "predictions.csv").read_text().splitlines()
    assert rows[0].split(",")[-2:] == ["p_tumor", "p_normal"]
    counts = cli(*words, place / "b", "--val", 0.4).json
    assert list(counts["balance"]["slides"]) == ["normal", "tumor"]
    assert counts["metrics"]["val"]["slides"] == 3 + 5  # of 8 and 12 patients
    folds = cli(*words, place / "c", "--val", 0, "--folds", 2)
    assert [list(fold["metrics"]) for fold in folds.json["folds"]] == [["test"], ["test"]]
    wrong = cli(*words, place / "d", "--classes", "normal,cancer")
    assert "has the label tumor (slides tumor00" in wrong.error
    assert "--val 1 must be a share" in cli(*words, place / "d", "--val", 1).error
    assert not (place / "d").exists()


def test_share_for_validation_with_a_stated_split(cli: Cli, place: Path) -> None:
    header, *rows = (place / "cohort.csv").read_text().splitlines()
    sides = ["test" if number % 4 == 0 else "train" for number in range(len(rows))]
    base = ("train", place / "cohort.csv", "--features", place / "features", "--head", "mean")
    base = (*base, "--set", "epochs=1", "--json", "--out")

    def state(sides: list[str]) -> None:
        lines = [f"{row},{side}" for row, side in zip(rows, sides, strict=True)]
        (place / "cohort.csv").write_text("\n".join([f"{header},split", *lines]))

    state(sides)
    drawn = cli(*base, place / "a", "--val", 0.5)
    assert drawn.json["metrics"]["val"]["slides"] == 3 + 5  # of 6 and 9 that are not tested with
    sides[1] = sides[-1] = "val"
    state(sides)
    stated = cli(*base, place / "b", "--val", 0.5)
    assert "--val is not heeded" in stated.err
    assert stated.json["metrics"]["val"]["slides"] == 2

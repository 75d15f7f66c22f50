"""The command train with an encoder that is trained too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from napari_wsi_xai.models import load_model
from napari_wsi_xai.training.epoch_store import EpochStore
from tile_cohort import picture, tile_cohort

Cli = Any  # the fixture of this folder


@pytest.fixture
def place(tmp_path: Path, write_slide: Callable[..., Path]) -> Path:
    tile_cohort(tmp_path, write_slide, slides=6)
    return tmp_path


def test_encoder_and_head_are_trained_together(cli: Cli, place: Path) -> None:
    (place / "r.yaml").write_text(
        "architecture: abmil-gated\nend_to_end: true\nepochs: 2\naccumulate: 2\nhidden: 8\n"
        "class_balance: alternating\nfrozen: [features.0]\naugment: {flips: true, hue: 0.02}\n"
    )
    words = ("train", place / "cohort.csv", "--features", place / "slides", "--out", place / "out")
    words = (*words, "--recipe", place / "r.yaml", "--tile-px", 48, "--tile-mpp", 0.5)
    asked = cli(*words)
    assert asked.status == 2
    assert "--encoder NAME" in asked.err
    result = cli(*words, "--encoder", "small-6-8", "--set", "augment.hue=0.05", "--json")
    assert result.status == 0, result.err
    model = load_model(result.json["model"])
    assert model.encoder.name == "small-6-8 (trained end to end)"
    recipe = model.metadata["training"]["recipe"]
    assert recipe["augment"] == {"flips": True, "hue": 0.05}
    assert recipe["frozen"] == ["features.0"]
    assert not (place / "out" / "features").exists()  # nothing was encoded before
    start = load_model(result.json["model"]).encoder
    again = (*words[:5], place / "more", *words[6:], "--encoder", result.json["model"], "--json")
    more = cli(*again)
    assert more.status == 0, more.err
    told = load_model(more.json["model"]).metadata["training"]["start"]
    assert told["encoder_hash"] == start.content_hash


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--head", "zoommil"), "zoommil"),
        (("--head", "msmil", "--members", 2, "--tile-mpp", "2,1"), "several magnifications"),
        (("--head", "mean", "--folds", 9), "9 folds"),
        (("--head", "mean", "--val", 0.9), "below 0.8"),
    ],
)
def test_what_cannot_be_trained_is_told_before_slides_are_encoded(
    cli: Cli, place: Path, more: tuple[Any, ...], words: str
) -> None:
    base = ("train", place / "cohort.csv", "--features", place / "slides", "--out", place / "out")
    result = cli(*base, "--encoder", "small-6", "--tile-px", 48, *more)
    assert result.status in (1, 2)
    assert words in result.error
    assert not (place / "out").exists()


@pytest.mark.parametrize("kind", ["end to end", "encoded first"])
def test_slides_that_state_no_mpp(
    cli: Cli, tmp_path: Path, write_slide: Callable[..., Path], kind: str
) -> None:
    cohort = tile_cohort(tmp_path, write_slide, slides=4)
    for case in cohort.cases[1:]:  # the first one states 0.5
        write_slide(case.features, picture(case.label, 0), mpp=None)
    rows = (tmp_path / "cohort.csv").read_text().splitlines()
    sides = ("split", "train", "train", "test", "test")
    lines = [f"{row},{side}" for row, side in zip(rows, sides, strict=True)]
    (tmp_path / "cohort.csv").write_text("\n".join(lines))
    whole = kind == "end to end"
    words = ("train", tmp_path / "cohort.csv", "--features", tmp_path / "slides", "--head", "mean")
    words = (*words, "--encoder", "small-6", "--set", "epochs=1", "--val", 0, "--json")
    words = (*words, *(("--set", "end_to_end=true") if whole else ()), "--out", tmp_path / "out")
    words = (*words, "--tile-px", 48, "--tile-mpp", 0.5, "--watch", "s2")
    refused = cli(*words)
    assert refused.status == 1
    assert "3 of 4 slides cannot be" in refused.error
    assert "s1 (" in refused.error
    assert "--mpp" in refused.error
    result = cli(*words, "--mpp", 0.25)
    assert result.status == 0, result.err
    assert load_model(result.json["model"]).mpp == 0.5
    (slide,) = EpochStore.open(result.json["watched"][0]).slides
    assert slide.mpp_stated
    assert slide.grids[-1].slide_mpp == (0.25, 0.25)
    if whole:
        other = cli(*words, "--mpp", 0.5)
        assert "holds a training with another features" in other.error
    assert "-1" in cli(*words, "--mpp", -1).error

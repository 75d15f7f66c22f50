"""The command train with an encoder that is trained too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from napari_wsi_xai.models import load_model
from tile_cohort import tile_cohort

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

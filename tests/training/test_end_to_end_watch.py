"""Watching a training of encoder and head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models import build_encoder
from napari_wsi_xai.runs import score
from napari_wsi_xai.training import (
    Case,
    Cohort,
    EpochStore,
    Split,
    WatchSlides,
    recipe_for,
    train,
    watched,
)

from test_resume import same  # isort: skip
from tile_cohort import MPP, TILE, tile_cohort  # isort: skip

SETTINGS: dict[str, Any] = {
    "end_to_end": True,
    "epochs": 3,
    "accumulate": 2,
    "hidden": 8,
    "dropout": 0.25,
    "most_tiles": 10,
    "frozen": "features.0",
    "augment": {"flips": True, "brightness": 0.1},
    "monitor": "train_loss",
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]) -> Cohort:
    return tile_cohort(tmp_path_factory.mktemp("tiles"), write_slide, slides=4)


@pytest.mark.parametrize("most", [2**30, 0])
def test_watching_disturbs_nothing_and_sees_the_encoder_of_the_epoch(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(watched, "MOST_BYTES", most)
    recipe, split = recipe_for("abmil-gated", **SETTINGS), Split("all", (0, 1, 2, 3), (), ())
    encoder, cut = build_encoder("small-6-8"), {"tile_px": TILE, "mpps": [MPP]}
    plain = train(cohort, split, recipe, tmp_path / "plain", encoder, **cut)
    place = tmp_path / "seen" / "epochs.wsixai.zarr"
    watch = WatchSlides([cohort.cases[1]], cohort.classes, place)
    seen = train(cohort, split, recipe, tmp_path / "seen", encoder, [watch], **cut)
    assert seen.history == plain.history
    states = [
        torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("plain", "seen")
    ]
    assert same(*states)
    assert seen.encoder is not None
    assert plain.encoder is not None
    assert seen.encoder.content_hash == plain.encoder.content_hash

    maps = EpochStore.open(place).maps("s1")["attention/all"].values
    assert len(maps) == 3
    assert not np.array_equal(maps[0], maps[1], equal_nan=True)
    run = score(cohort.cases[1].features, seen.model, precision="float32", engine="torch").compute()
    np.testing.assert_allclose(maps[seen.best_epoch - 1], run.maps["attention/all"], atol=1e-5)
    figures = watch.history[seen.best_epoch - 1].slides["s1"]
    assert figures.probability == pytest.approx(run.probabilities["tumor"], abs=1e-5)
    assert figures.outside_tissue < 0.5


def test_images_with_nuclei_are_no_map(tmp_path: Path) -> None:
    from napari_wsi_xai.training.tile_encoder import TileEncoder

    encoder = TileEncoder(build_encoder("small-6-8"), 27, 0.55)
    case = Case("img1", 0, "p", tmp_path / "img1.bmp")
    with pytest.raises(BadArgumentError, match="img1 is an image with marked nuclei"):
        watched.watch_case(case, encoder=encoder)

"""From slides to a model that scores slides as it did in training."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from napari_wsi_xai.models import EncoderSpec, build_encoder, load_model
from napari_wsi_xai.runs import score
from napari_wsi_xai.training import encode_cohort, hold_out, read_cohort, recipe_for, train
from napari_wsi_xai.training.watch import WatchSlides

ENCODER = EncoderSpec("small", "small-8-16-24", weights=None, seed=3)
FAST = {"engine": "torch", "precision": "float32", "block_tiles": 4}


@pytest.fixture
def folder(tmp_path: Path, textured_slide: Path) -> Path:
    """Six slides of one picture, three of each class."""
    (tmp_path / "slides").mkdir()
    rows = ["slide,label,patient"]
    for number in range(6):
        (tmp_path / "slides" / f"s{number}.ome.tif").symlink_to(textured_slide)
        rows.append(f"s{number},{('normal', 'tumor')[number % 2]},p{number}")
    (tmp_path / "cohort.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


HEADS: list[tuple[str, dict[str, Any], tuple[float, ...]]] = [
    ("abmil", {}, (0.5,)),
    ("zoommil", {"k_sample": 2, "hidden": 8, "out_features": 8}, (4.0, 1.0)),
    ("dsmil", {"hidden": 8}, (4.0, 1.0)),
    ("msmil", {"projection": "8,8", "attention": 4}, (4.0, 1.0)),
    ("sparseconvmil", {"channels": "8,8", "downsample": 64}, (0.5,)),
]


@pytest.mark.parametrize(("name", "settings", "mpps"), HEADS)
def test_bundle_scores_as_in_training(
    folder: Path, textured_slide: Path, name: str, settings: dict[str, Any], mpps: tuple[float, ...]
) -> None:
    cohort = read_cohort(folder / "cohort.csv", folder / "slides")
    tile = 32 if len(mpps) > 1 else 64
    cohort = encode_cohort(cohort, ENCODER, folder / "stores", tile_px=tile, mpp=mpps, **FAST)
    split, recipe = hold_out(cohort, test=0.4, val=0.0), recipe_for(name, epochs=1, **settings)
    result = train(cohort, split, recipe, folder / "out")
    model = load_model(result.model)
    assert model.encoder.content_hash == build_encoder(ENCODER).content_hash
    assert (model.tile_px, model.mpps) == (tile, mpps)
    run = score(textured_slide, model, **FAST).compute()
    with result.predictions.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        told = {label: float(row[f"p_{label}"]) for label in model.classes}
        assert told == pytest.approx(run.probabilities, abs=1e-5)


def test_watched_slides_and_a_rule_end_a_training(folder: Path) -> None:
    cohort = read_cohort(folder / "cohort.csv", folder / "slides")
    cohort = encode_cohort(cohort, ENCODER, folder / "stores", tile_px=64, mpp=0.5, **FAST)
    split = hold_out(cohort, test=0.4, val=0.0)
    recipe = recipe_for("abmil", epochs=4, monitor="train_loss")

    def watch(place: Path, *rules: str) -> WatchSlides:
        store = place / "epochs.wsixai.zarr"
        return WatchSlides(cohort.cases[:1], cohort.classes, store, rules=rules)

    plain = train(cohort, split, recipe, folder / "plain")
    watched = train(cohort, split, recipe, folder / "seen", callbacks=[watch(folder / "seen")])
    assert watched.history == plain.history
    rule = "stop when attention entropy > 0.1 for 2 epochs"
    stopped = train(
        cohort, split, recipe, folder / "ruled", callbacks=[watch(folder / "ruled", rule)]
    )
    assert stopped.stopped_because is not None
    assert "entropy" in stopped.stopped_because
    assert 2 <= len(stopped.history) < 4
    assert stopped.history == plain.history[: len(stopped.history)]

"""What commands that train take from a model bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_wsi_xai.cli.training_inputs import tiles_of
from napari_wsi_xai.models import build_model, save_model
from napari_wsi_xai.training import Case, Cohort


def cohort_of(features: str) -> Cohort:
    cases = [Case(f"s{n}", n % 2, f"p{n}", Path(features.format(n))) for n in range(4)]
    return Cohort(tuple(cases), ("normal", "tumor"))


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    model = build_model("small-4-8", "mean", tile_px=64, mpp=1.0)
    return str(save_model(model, tmp_path / "model.safetensors"))


def test_slides_are_cut_as_the_bundle_has_it_unless_told(bundle: str) -> None:
    slides = cohort_of("s{}.tif")
    assert tiles_of(slides, bundle, None, None) == {"tile_px": 64, "mpps": (1.0,)}
    told = tiles_of(slides, bundle, 96, None)
    assert (told["tile_px"], tuple(told["mpps"])) == (96, (1.0,))
    told = tiles_of(slides, bundle, None, "2,0.5")
    assert (told["tile_px"], tuple(told["mpps"])) == (64, (2.0, 0.5))


def test_features_and_named_encoders_say_nothing_of_tiles(bundle: str) -> None:
    nothing = {"tile_px": None, "mpps": None}
    assert tiles_of(cohort_of("s{}.h5"), bundle, None, None) == nothing
    assert tiles_of(cohort_of("s{}.tif"), "small", None, None) == nothing
    assert tiles_of(cohort_of("s{}.tif"), None, None, None) == nothing

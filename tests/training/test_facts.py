from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from cohorts import make_cohort, write_bag
from napari_wsi_xai.errors import CohortError, StoreError
from napari_wsi_xai.runs import FeatureBag, score, write_feature_bag
from napari_wsi_xai.training import Case, Cohort, FeatureFacts, feature_facts

FAST = {"engine": "torch", "precision": "float32"}


def cohort_of(*paths) -> Cohort:
    return Cohort(tuple(Case(path.name, 0, path.name, path) for path in paths), ("a", "b"))


def test_facts_of_a_run_store_and_of_what_is_written_from_it(textured_slide, tiny_model, tmp_path):
    run = score(textured_slide, tiny_model, tmp_path / "s.wsixai.zarr", **FAST).compute()
    facts = feature_facts(cohort_of(run.path))
    name = tiny_model.encoder.name
    assert facts == FeatureFacts(24, name, tiny_model.encoder.content_hash, 64, (0.5,))
    h5 = write_feature_bag(FeatureBag.of(run), tmp_path / "s.h5")
    assert feature_facts(cohort_of(h5)) == FeatureFacts(24, name, None, 64, (0.5,))
    pt = write_feature_bag(FeatureBag.of(run), tmp_path / "s.pt")
    assert feature_facts(cohort_of(pt)) == FeatureFacts(24)
    assert facts.in_features() == facts.in_features("concat") == 24


def test_files_with_a_batch_axis(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["features"], file["coords"] = np.zeros((1, 5, 7)), np.zeros((1, 5, 2), int)
    assert feature_facts(cohort_of(tmp_path / "t.h5")) == FeatureFacts(7)


@pytest.mark.parametrize(("name", "value"), [("patch_size", [256, 256]), ("mpp", "unknown")])
def test_attributes_that_are_no_numbers(tmp_path, name, value):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["features"], file["coords"] = np.zeros((5, 7)), np.zeros((5, 2), int)
        file["coords"].attrs[name] = value
    with pytest.raises(StoreError, match=r"t\.h5 is not a CLAM or TRIDENT feature file"):
        feature_facts(cohort_of(tmp_path / "t.h5"))


def test_slides_that_differ_are_named_with_both_numbers(tmp_path):
    paths = [write_bag(tmp_path / f"s{number}.h5", length=4) for number in range(3)]
    odd = write_bag(tmp_path / "odd.h5", length=6)
    message = r"descriptor length 4 of s0\.h5, 6 of odd\.h5"
    with pytest.raises(CohortError, match=message):
        feature_facts(cohort_of(odd, *paths))


def test_encoders_that_differ_are_named(tmp_path, textured_slide, tiny_model):
    from napari_wsi_xai.models import EncoderSpec, build_model

    other = build_model(
        EncoderSpec("small", "small-8-16-24", weights=None, seed=4), tile_px=64, mpp=0.5
    )
    for name, model in (("s", tiny_model), ("t", other)):
        score(textured_slide, model, tmp_path / f"{name}.wsixai.zarr", **FAST).compute()
    with pytest.raises(CohortError, match=r"encoder's content sha256:.* of s.*, sha256:.* of t"):
        feature_facts(cohort_of(tmp_path / "s.wsixai.zarr", tmp_path / "t.wsixai.zarr"))


def test_what_has_no_features_yet(tmp_path):
    cohort = make_cohort([[0], [1]])
    cases = tuple(replace(case, features=Path(f"{case.slide}.svs")) for case in cohort.cases)
    with pytest.raises(CohortError, match="features of s0, s1 are not there yet"):
        feature_facts(replace(cohort, cases=cases))
    with pytest.raises(StoreError, match=r"s\.h5"):
        feature_facts(cohort_of(tmp_path / "s.h5"))

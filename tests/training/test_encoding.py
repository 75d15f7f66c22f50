from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_wsi_xai.errors import BadArgumentError, CohortError
from napari_wsi_xai.models import EncoderSpec, build_model
from napari_wsi_xai.runs import FeatureBag, Progress, open_run, score
from napari_wsi_xai.training import Case, Cohort, encode_cohort, encoding, feature_facts, read_bag

FAST = {"engine": "torch", "precision": "float32", "block_tiles": 4}
SPEC = EncoderSpec("small", "small-8-16-24", weights=None, seed=3)


@pytest.fixture
def slides(tmp_path, textured_slide):
    """Two slides and a feature file."""
    other = tmp_path / "other.ome.tif"
    other.symlink_to(textured_slide)
    cases = (Case("a", 0, "p", textured_slide), Case("b", 1, "q", other))
    return Cohort((*cases, Case("c", 1, "r", tmp_path / "c.h5")), ("normal", "tumor"))


def test_stores_hold_what_the_same_run_of_a_model_holds(slides, textured_slide, tmp_path):
    told = []
    encoded = encode_cohort(
        slides, SPEC, tmp_path / "out", tile_px=64, mpp=0.5, tell=told.append, **FAST
    )
    assert [case.features for case in encoded.cases] == [
        tmp_path / "out" / "a.wsixai.zarr",
        tmp_path / "out" / "b.wsixai.zarr",
        tmp_path / "c.h5",
    ]
    model = build_model(SPEC, "abmil", tile_px=64, mpp=0.5)
    own = FeatureBag.of(score(textured_slide, model, **FAST).compute())
    for case in encoded.cases[:2]:
        np.testing.assert_array_equal(read_bag(case).features, own.features)
        assert open_run(case.features).maps == {}
        assert open_run(case.features).result is None
    assert {(step.slide, step.number, step.slides) for step in told} == {("a", 1, 2), ("b", 2, 2)}
    assert told[0].eta_s is None
    assert told[-1].eta_s > 0
    assert told[-1].step.tiles_done == told[-1].step.tiles_total == len(own.features)


def test_the_same_call_goes_on(slides, tmp_path):
    class KilledError(Exception):
        pass

    def kill(progress):
        if progress.slide == "b" and progress.step.blocks_done:
            raise KilledError

    options = {"tile_px": 64, "mpp": 0.5, **FAST}
    with pytest.raises(KilledError):
        encode_cohort(slides, SPEC, tmp_path, tell=kill, **options)
    told = []
    encoded = encode_cohort(slides, SPEC, tmp_path, tell=told.append, **options)
    assert {progress.slide for progress in told} == {"b"}
    assert told[0].step.blocks_done >= 1
    whole = encode_cohort(slides, SPEC, tmp_path / "whole", **options)
    for here, there in zip(encoded.cases[:2], whole.cases[:2], strict=True):
        assert torch.equal(read_bag(here).features, read_bag(there).features)


def test_several_magnifications_can_be_zoomed_into(slides, tmp_path):
    encoded = encode_cohort(slides, SPEC, tmp_path, tile_px=32, mpp=(4.0, 1.0), **FAST)
    for case in encoded.cases[:2]:
        coarse, fine = read_bag(case, "zoom").features
        assert len(fine) == 16 * len(coarse)
    facts = feature_facts(Cohort(encoded.cases[:2], encoded.classes))
    assert facts.mpps == (4.0, 1.0)
    assert (facts.length, facts.tile_px) == (24, 32)
    assert facts.in_features("zoom") == 24
    assert facts.in_features("concat") == 48


def test_slides_that_cannot_be_encoded_are_named_and_the_others_done(slides, tmp_path):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0 no slide")
    cases = (Case("x", 0, "x", broken), slides.cases[0], Case("y", 0, "y", tmp_path / "y.svs"))
    with pytest.raises(CohortError, match=r"2 of 3 slides .*: x \(.*\), y \(.*\); mend"):
        encode_cohort(Cohort(cases, ("n", "t")), SPEC, tmp_path, tile_px=64, mpp=0.5, **FAST)
    assert open_run(tmp_path / "a.wsixai.zarr").complete


def test_slides_that_state_no_mpp_are_told_it(write_slide, tmp_path):
    rgb = np.full((256, 256, 3), (180, 60, 140), dtype=np.uint8)
    path = write_slide(tmp_path / "n.tif", rgb, mpp=None)
    cohort = Cohort((Case("n", 0, "n", path),), ("n", "t"))
    with pytest.raises(CohortError, match=r"1 of 1 slides .*n \("):
        encode_cohort(cohort, SPEC, tmp_path / "out", tile_px=64, mpp=0.5, **FAST)
    done = encode_cohort(cohort, SPEC, tmp_path / "out", tile_px=64, mpp=0.5, slide_mpp=0.5, **FAST)
    assert len(read_bag(done.cases[0]).features) == 16


def test_time_left_counts_slides_that_were_worked_on(slides, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(encoding.time, "monotonic", lambda: now[0])
    takes = {"a": (), "b": (4.0, 6.0), "c": (), "d": (3.0, 5.0, 9.0), "e": (1.0,)}

    def encode(case, *rest):
        for seconds in takes[case.slide]:
            now[0] += seconds
            yield Progress(1, 2, 1, 2, 1.0, 1.0, 1.0, 33.0, 0, "")
        now[0] += 0.5 if takes[case.slide] else 2.0  # looking at what is done already

    monkeypatch.setattr(encoding, "_encode", encode)
    path = slides.cases[0].features
    cases = tuple(Case(name, 0, name, path) for name in takes)
    told = []
    encode_cohort(Cohort(cases, ("n", "t")), SPEC, tmp_path, tile_px=64, tell=told.append)
    # b took 10.5 s: no estimate before it is done; then d, and e at the mean of b and d.
    each = (10.5 + 17.5) / 2
    assert [(one.slide, one.eta_s) for one in told] == [
        *(("b", None), ("b", None)),
        *(("d", 10.5 + 7.5), ("d", 10.5 + 2.5), ("d", 10.5)),
        ("e", each - 1.0),
    ]
    takes |= dict.fromkeys("abcd", ())
    encode_cohort(Cohort(cases, ("n", "t")), SPEC, tmp_path, tile_px=64, tell=told.append)
    assert told[-1].eta_s == 33.0  # the only one


def test_mpp_is_for_slides_that_state_none(slides, write_slide, tmp_path):
    rgb = np.full((256, 256, 3), (180, 60, 140), dtype=np.uint8)
    places = {None: tmp_path / "none.tif", 0.5: tmp_path / "half.ome.tif"}
    for mpp, path in places.items():
        write_slide(path, rgb, mpp=mpp)
    cases = tuple(Case(path.stem, 0, path.stem, path) for path in places.values())
    cohort = Cohort(cases, ("n", "t")).with_mpp(1.0)
    encoded = encode_cohort(cohort, SPEC, tmp_path / "out", tile_px=64, mpp=1.0, **FAST)
    assert [len(read_bag(case).features) for case in encoded.cases] == [16, 4]
    with pytest.raises(BadArgumentError, match="-1"):
        cohort.with_mpp(-1.0)

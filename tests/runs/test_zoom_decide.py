"""Heads over several magnifications by hand, and what becomes of tiles that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_wsi_xai.errors import RunError, SlideReadError
from napari_wsi_xai.models import EncoderSpec, Model, build_model
from napari_wsi_xai.runs import ZoomRun, plan, score
from napari_wsi_xai.tiles import children_of, read_tiles

FAST = {"engine": "torch", "precision": "float32", "block_tiles": 4}
MPPS = (4.0, 1.0)
HEADS = {
    "zoommil": {"k_sample": 3, "hidden": 8, "out_features": 12},
    "msmil": {"projection": (16, 8), "attention": 4},
    "dsmil": {"hidden": 8},
}


def several(head: str, mpps=MPPS) -> Model:
    spec = EncoderSpec("small", "small-8-16-24", weights=None, seed=3)
    return build_model(spec, head, tile_px=32, mpp=mpps, seed=1, **HEADS[head])


def unreadable(monkeypatch, mpp, tiles) -> None:
    """Make some tiles of one magnification fail, alone or in a block."""
    bad = {tuple(map(int, tile)) for tile in tiles}

    def read(slide, grid, indices):
        index = np.asarray(indices).reshape(-1, 2)
        if grid.mpp == mpp and bad & {tuple(map(int, tile)) for tile in index}:
            raise SlideReadError("no such luck")
        return read_tiles(slide, grid, indices)

    monkeypatch.setattr(plan, "read_tiles", read)


def bag_of(run: ZoomRun, level: int, index) -> torch.Tensor:
    features = np.asarray(run.levels[level].features.compute())
    return torch.from_numpy(features[index[:, 0], index[:, 1]])


def test_a_failed_child_is_left_out_and_nothing_put_in_its_place(monkeypatch, textured_slide):
    model = several("zoommil")
    good = score(textured_slide, model, **FAST).compute()
    opened = np.argwhere(good.levels[0].maps["opened/all"] == 1)
    children = children_of(opened, 4)
    bad = children[[2, 17, 18]]
    unreadable(monkeypatch, 1.0, bad)
    runs = [score(textured_slide, model, exhaustive=e, **FAST).compute() for e in (False, True)]
    rest = np.delete(children, [2, 17, 18], axis=0)
    coarse = np.argwhere(good.levels[0].tissue)
    with torch.inference_mode():
        expected = model.mil.forward_opened([bag_of(good, 0, coarse), bag_of(good, 1, rest)])
    for run in runs:
        np.testing.assert_allclose(run.result["logits"], expected.logits, rtol=1e-5, atol=1e-6)
        assert run.failures == {(1, *map(int, tile)): "no such luck" for tile in bad}
        attention = run.levels[1].maps["attention/all"]
        assert np.isnan(attention[tuple(bad.T)]).all()
        assert np.nansum(attention) == pytest.approx(1, abs=1e-5)
        assert run.trace.levels[1].failed == 3
        assert run.trace.levels[1].looked == len(rest)
        assert run.complete
    assert runs[0].result["logits"] != pytest.approx(good.result["logits"], rel=1e-6)


def test_a_failed_coarse_tile_is_never_opened(monkeypatch, textured_slide):
    model = several("zoommil")
    good = score(textured_slide, model, **FAST).compute()
    opened = np.argwhere(good.levels[0].maps["opened/all"] == 1)
    unreadable(monkeypatch, 4.0, opened[:1])
    runs = [score(textured_slide, model, exhaustive=e, **FAST).compute() for e in (False, True)]
    others = [tile for tile in np.argwhere(good.levels[0].tissue) if (tile != opened[0]).any()]
    bag = bag_of(good, 0, np.array(others))
    chosen = np.array(others)[model.mil.open_tiles(0, bag)]
    for run in runs:
        assert run.complete
        np.testing.assert_array_equal(np.argwhere(run.levels[0].maps["opened/all"] == 1), chosen)
        assert np.isnan(run.levels[0].maps["opened/all"][tuple(opened[0])])
    # In the last bits blocks of other tiles may round differently.
    np.testing.assert_allclose(runs[0].result["logits"], runs[1].result["logits"], rtol=1e-5)


def test_children_that_were_never_read_are_not_passed_over(textured_slide):
    run = score(textured_slide, several("zoommil"), **FAST).compute()
    read = np.argwhere(run.levels[1].tissue)
    run.levels[1].tissue[tuple(read[0])] = False
    with pytest.raises(RunError, match="other tiles than the head opens here"):
        run.update_maps()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("mpp", MPPS)
def test_where_no_tile_of_a_magnification_can_be_used(monkeypatch, textured_slide, head, mpp):
    run = score(textured_slide, several(head), **FAST)
    unreadable(monkeypatch, mpp, np.argwhere(np.ones((60, 60))))
    with pytest.raises(RunError, match=rf"none of \d+ tiles at {mpp:g} um/px could be used"):
        run.compute()
    assert run.result is None


def test_one_attention_over_the_tiles_of_all_magnifications(textured_slide):
    model = several("msmil")
    run = score(textured_slide, model, **FAST).compute()
    index = [np.argwhere(level.tissue) for level in run.levels]
    assert len(index[1]) == 16 * len(index[0])
    with torch.inference_mode():
        output = model.mil([bag_of(run, level, at) for level, at in enumerate(index)])
    np.testing.assert_allclose(run.result["logits"], output.logits, rtol=1e-5, atol=1e-6)
    attention = np.concatenate(
        [
            level.maps["attention/all"][tuple(at.T)]
            for level, at in zip(run.levels, index, strict=True)
        ]
    )
    np.testing.assert_allclose(attention, output.attention[:, 0], rtol=1e-4, atol=1e-7)
    assert attention.sum() == pytest.approx(1, abs=1e-5)
    scores = run.levels[1].maps["tile-scores/all"][tuple(index[1].T)]
    np.testing.assert_allclose(scores, output.tile_scores[len(index[0]) :, 0], rtol=1e-4, atol=1e-5)
    assert run.exhaustive
    assert run.trace.share == 1
    assert [level.looked for level in run.trace.levels] == [len(index[0]), len(index[1])]


def test_pooling_leaves_failed_tiles_out_of_either_magnification(monkeypatch, textured_slide):
    model = several("msmil")
    good = score(textured_slide, model, **FAST).compute()
    coarse, fine = (np.argwhere(level.tissue) for level in good.levels)
    unreadable(monkeypatch, 4.0, coarse[3:5])
    run = score(textured_slide, model, **FAST).compute()
    with torch.inference_mode():
        left = np.delete(coarse, [3, 4], axis=0)
        expected = model.mil([bag_of(good, 0, left), bag_of(good, 1, fine)])
    np.testing.assert_allclose(run.result["logits"], expected.logits, rtol=1e-5, atol=1e-6)
    assert run.result["tiles_used"] == len(left) + len(fine)


def side_by_side(run: ZoomRun, fine, ratios) -> torch.Tensor:
    """Descriptors of fine tiles, each followed by those of the tiles around it."""
    parts, index = [], fine
    for level in reversed(range(len(run.levels))):
        parts.append(bag_of(run, level, index))
        if level:
            index = index // ratios[level - 1]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize(("mpps", "ratios"), [((4.0, 1.0), (4,)), ((6.0, 3.0, 1.0), (2, 3))])
def test_descriptors_side_by_side_fine_to_coarse(textured_slide, mpps, ratios):
    model = several("dsmil", mpps)
    assert model.mil.in_features == 24 * len(mpps)
    run = score(textured_slide, model, **FAST).compute()
    fine = np.argwhere(run.levels[-1].tissue)
    with torch.inference_mode():
        output = model.mil(side_by_side(run, fine, ratios))
    np.testing.assert_allclose(run.result["logits"], output.logits, rtol=1e-4, atol=1e-5)
    maps = run.levels[-1].maps
    for k, name in enumerate(run.classes):
        values = maps[f"attention/{name}"][tuple(fine.T)]
        np.testing.assert_allclose(values, output.attention[:, k], rtol=1e-3, atol=1e-6)
    assert all(not level.maps for level in run.levels[:-1])
    assert run.trace.left_out == 0
    assert run.result["tiles_total"] == sum(level.total for level in run.levels)


def test_a_tile_whose_surroundings_failed_is_left_out_and_counted(monkeypatch, textured_slide):
    model = several("dsmil")
    good = score(textured_slide, model, **FAST).compute()
    coarse, fine = (np.argwhere(level.tissue) for level in good.levels)
    unreadable(monkeypatch, 4.0, coarse[5:6])
    run = score(textured_slide, model, **FAST).compute()
    left = fine[(fine // 4 != coarse[5]).any(axis=1)]
    with torch.inference_mode():
        expected = model.mil(side_by_side(good, left, (4,)))
    np.testing.assert_allclose(run.result["logits"], expected.logits, rtol=1e-4, atol=1e-5)
    assert run.trace.left_out == 16
    assert run.trace.levels[1].looked == len(left) == len(fine) - 16
    assert np.isnan(
        run.levels[1].maps["attention/normal"][tuple(children_of(coarse[5:6], 4).T)]
    ).all()


@pytest.mark.parametrize("head", ["msmil", "dsmil"])
def test_before_every_magnification_has_tiles_there_is_no_decision(textured_slide, head):
    run = score(textured_slide, several(head), **FAST)
    seen = []
    for step in run:
        output = run.update_maps()
        assert (output is None) == (step.level == 0 or not run.levels[1].done)
        if output is not None:
            seen.append(run.result["complete"])
    assert seen[0] is False
    assert seen[-1] is True
    assert run.result == score(textured_slide, several(head), **FAST).compute().result

"""Runs that look everywhere coarsely and open a few tiles."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from shapely import box

from napari_wsi_xai.errors import BadArgumentError, RunError, StoreError, StoreMismatchError
from napari_wsi_xai.geometry import Region
from napari_wsi_xai.models import EncoderSpec, Model, build_model, save_model
from napari_wsi_xai.runs import Run, ZoomRun, open_run, score
from napari_wsi_xai.tiles import children_of

FAST = {"engine": "torch", "precision": "float32", "block_tiles": 4}
MPPS = (4.0, 1.0, 0.5)
RATIOS = (4, 2)


def zooming(mpps=MPPS, tile_px=32, **arguments) -> Model:
    spec = EncoderSpec("small", "small-8-16-24", weights=None, seed=3)
    sizes = {"k_sample": 3, "hidden": 8, "out_features": 12, **arguments}
    return build_model(spec, "zoommil", tile_px=tile_px, mpp=mpps, seed=1, **sizes)


@pytest.fixture(scope="module")
def model() -> Model:
    return zooming()


@pytest.fixture(scope="module")
def whole(textured_slide, model) -> ZoomRun:
    """The slide with every tile of every magnification read."""
    return score(textured_slide, model, exhaustive=True, **FAST).compute()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, textured_slide, model) -> ZoomRun:
    """The slide with only what is opened."""
    out = tmp_path_factory.mktemp("zoom") / "a.wsixai.zarr"
    return score(textured_slide, model, out, **FAST).compute()


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def full_bags(run: ZoomRun, ratios) -> list[torch.Tensor]:
    """Every descriptor of every magnification, the children of a tile one after the other."""
    index = np.argwhere(run.levels[0].tissue)
    bags = []
    for level, ratio in zip(run.levels, (*ratios, 1), strict=True):
        features = np.asarray(level.features.compute())
        bags.append(torch.from_numpy(features[index[:, 0], index[:, 1]]))
        index = children_of(index, ratio)
    return bags


def test_a_zoom_run_decides_as_the_head_does_over_all_tiles(textured_slide, model, whole, finished):
    """The head over full bags is the truth; both ways of running agree with it."""
    bags = full_bags(whole, RATIOS)
    with torch.inference_mode():
        output = model.mil(bags)
    for run in (whole, finished):
        np.testing.assert_allclose(run.result["logits"], output.logits, rtol=1e-5, atol=1e-6)
        assert run.complete
        assert sum(run.probabilities.values()) == pytest.approx(1)
    np.testing.assert_allclose(finished.result["logits"], whole.result["logits"], rtol=1e-6)
    start = 0
    for number, bag in enumerate(bags):
        index = np.argwhere(whole.levels[0].tissue)
        for ratio in RATIOS[:number]:
            index = children_of(index, ratio)
        scores = output.tile_scores[start : start + len(bag), number].numpy()
        start += len(bag)
        for run in (whole, finished):
            map_of = run.levels[number].maps["tile-scores/all"]
            np.testing.assert_allclose(map_of[tuple(index.T)], scores, rtol=1e-4, atol=1e-5)
    assert finished.done < 0.5 * whole.done


@pytest.mark.parametrize(("mpps", "tile_px"), [((8.0, 2.0, 0.5), 64), ((3.0, 1.0), 96)])
def test_a_real_slide(shared_data, mpps, tile_px):
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    model = zooming(mpps, tile_px)
    run = score(path, model, **FAST).compute()
    full = score(path, model, exhaustive=True, **FAST).compute()
    ratios = [round(a / b) for a, b in pairwise(mpps)]
    with torch.inference_mode():
        logits = model.mil(full_bags(full, ratios)).logits
    np.testing.assert_allclose(run.result["logits"], logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(full.result["logits"], logits, rtol=1e-5, atol=1e-6)
    assert run.done == run.total < full.done == full.total
    assert not run.failures


def test_only_children_of_opened_tiles_are_read(finished, model):
    head = model.mil
    for number, ratio in enumerate(RATIOS):
        level, finer = finished.levels[number : number + 2]
        opened = np.argwhere(level.maps["opened/all"] == 1)
        assert len(opened) == 3
        expected = np.zeros(finer.grid.shape, dtype=bool)
        rows, cols = children_of(opened, ratio).T
        expected[rows, cols] = True
        np.testing.assert_array_equal(finer.tissue, expected)
        looked = np.isfinite(level.maps["opened/all"])
        np.testing.assert_array_equal(looked, level.tissue)
        # The largest entries of the selection are what is opened.
        selection = level.maps["selection/all"]
        assert selection[tuple(opened.T)].min() >= np.sort(selection[looked])[-3]
        assert selection[looked].sum() == pytest.approx(1, abs=1e-5)
    assert head.k_sample == 3
    assert "opened/all" not in finished.levels[2].maps
    assert "selection/all" not in finished.levels[2].maps


def test_maps_of_every_magnification(finished, whole):
    for run in (finished, whole):
        for level, other in zip(run.levels, finished.levels, strict=True):
            attention = level.maps["attention/all"]
            assert np.nansum(attention) == pytest.approx(1, abs=1e-5)
            assert attention.shape == level.grid.shape
            # Tiles that were read but not looked into are no part of the decision.
            np.testing.assert_array_equal(np.isfinite(attention), other.tissue)


def test_maps_lie_over_one_another_in_the_store(finished):
    """Each magnification's maps are OME images, placed so that pixels cover their children."""
    corners = []
    for number, level in enumerate(finished.levels):
        group = level.store.group["maps/attention/all"]
        (image,) = group.attrs["ome"]["multiscales"]
        scale, shift = image["datasets"][0]["coordinateTransformations"]
        assert scale["scale"] == pytest.approx([32 * MPPS[number]] * 2)
        # An image pixel's centre is at its index, a slide pixel is 0.5 um wide.
        corners.append(np.subtract(shift["translation"], np.multiply(scale["scale"], 0.5)))
        assert level.path == finished.path / "magnifications" / str(number)
    np.testing.assert_allclose(corners, np.full((3, 2), -0.25))


def test_the_account_of_what_was_read(finished, whole):
    trace = finished.trace
    coarse = finished.levels[0].total
    assert [level.mpp for level in trace.levels] == list(MPPS)
    assert [level.tiles for level in trace.levels] == [coarse, coarse * 16, coarse * 64]
    assert [level.read for level in trace.levels] == [coarse, 48, 12]
    assert [level.looked for level in trace.levels] == [coarse, 48, 12]
    assert [level.opened for level in trace.levels] == [3, 3, 0]
    assert [level.skipped for level in trace.levels] == [0, coarse * 16 - 48, coarse * 64 - 12]
    assert trace.share == pytest.approx((coarse + 60) / (coarse * 81))
    assert [level.share for level in trace.levels[1:]] == pytest.approx(
        [48 / (coarse * 16), 12 / (coarse * 64)]
    )
    assert (trace.exhaustive, whole.trace.exhaustive) == (False, True)
    assert whole.trace.share == 1
    assert [level.skipped for level in whole.trace.levels] == [0, 0, 0]
    assert [level.looked for level in whole.trace.levels] == [coarse, 48, 12]
    result = finished.result
    assert (result["tiles_used"], result["tiles_total"]) == (coarse + 60, coarse + 60)
    assert result["complete"] is True


def test_tissue_that_no_magnification_looks_at_is_counted(textured_slide, model, tmp_path):
    """A bar of tissue half in a coarse tile that is full enough and half in one that is not."""
    edge = 32 * 4.0 / 0.5  # of a coarse tile, level-0 pixels
    bar = box(edge, edge / 2, edge * 2.1, edge * 1.5)
    mostly = score(textured_slide, model, tmp_path / "a.zarr", tissue=[bar], min_tissue=0.25)
    assert mostly.levels[0].tissue.sum() == 2
    assert mostly.trace.tissue_left_out == pytest.approx(0.1 / 1.1, abs=0.02)
    assert open_run(tmp_path / "a.zarr").trace == mostly.trace
    everything = score(textured_slide, model, tissue=[bar], min_tissue=0.01)
    assert everything.levels[0].tissue.sum() == 4
    assert everything.trace.tissue_left_out == 0


def test_progress_tells_magnification_and_what_may_follow(textured_slide, model):
    run = score(textured_slide, model, **FAST)
    bound = run.total
    steps = list(run)
    assert [s.level for s in steps] == sorted(s.level for s in steps)
    assert {s.level for s in steps} == {0, 1, 2}
    assert all((s.mpp, s.levels) == (MPPS[s.level], 3) for s in steps)
    assert run.done == run.total <= bound
    for step in steps:
        done = sum(level.total for level in run.levels[: step.level]) + step.tiles_done
        ahead = step.tiles_total - step.tiles_done + step.tiles_ahead
        assert run.total <= done + ahead <= bound
    assert steps[-1].message == "complete"
    assert (steps[-1].tiles_ahead, steps[-1].eta_s) == (0, 0)


def test_decided_magnifications_show_while_the_run_goes_on(tmp_path, textured_slide, model):
    run = score(textured_slide, model, tmp_path / "a.wsixai.zarr", **FAST)
    for step in run:
        if step.level == 1 and step.tiles_done:
            break
    attention = run.levels[0].maps["attention/all"]
    assert np.nansum(attention) == pytest.approx(1, abs=1e-5)
    assert run.levels[0].complete
    assert not run.complete
    assert run.result is None
    assert run.trace.levels[0].opened == 3
    assert run.trace.levels[2].read == 0
    stored = open_run(run.path)
    assert isinstance(stored, ZoomRun)
    assert (stored.complete, len(stored.levels), stored.result) == (False, 2, None)
    np.testing.assert_array_equal(stored.levels[0].maps["attention/all"], attention)
    # What the magnification at hand says so far is provisional, and the decision is not taken.
    assert run.update_maps() is None
    assert 0 < np.isfinite(run.levels[1].maps["attention/all"]).sum() < 48
    assert "opened/all" not in run.levels[1].maps


def test_stopped_at_any_point_it_goes_on_to_the_same_bits(
    tmp_path, textured_slide, model, finished
):
    steps = len(list(score(textured_slide, model, **FAST)))
    assert steps > 8
    for stop in range(0, steps - 1, 2):
        out = tmp_path / f"{stop}.wsixai.zarr"
        run = score(textured_slide, model, out, **FAST)
        for number, _ in enumerate(run):
            if number == stop:
                run.cancel()
        assert not (run.complete and run.result)
        again = score(textured_slide, model, out, **FAST)
        assert again.done == run.done
        again.compute()
        assert again.result == finished.result
        assert files_of(out) == files_of(finished.path)


def test_cancelled_says_so_and_broken_off_loses_nothing(textured_slide, model):
    run = score(textured_slide, model, **FAST)
    for step in run:
        if step.level == 1:
            run.cancel()
    assert step.message == "cancelled"
    assert step.level == 1
    assert len(run.levels) == 2
    done = run.done
    for _ in run:
        break
    assert run.done == done
    assert run.compute().complete


KILLED = """
    import sys, time
    from napari_wsi_xai.models import load_model
    from napari_wsi_xai.runs import score
    slide, model, out = sys.argv[1:]
    run = score(slide, load_model(model), out, engine="torch", precision="float32", block_tiles=4)
    for step in run:
        print(step.level, step.blocks_done, flush=True)
        time.sleep(0.5 if (step.level, step.blocks_done) == (1, 1) else 0)
"""


def test_sigkill_in_a_finer_magnification(tmp_path, textured_slide, model, finished):
    bundle = save_model(model, tmp_path / "model")
    out = tmp_path / "killed.wsixai.zarr"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(textured_slide), str(bundle), str(out)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.split() == ["1", "1"]:
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    run = score(textured_slide, bundle, out, **FAST)
    assert [level.complete for level in run.levels] == [True, False]
    run.compute()
    assert files_of(out) == files_of(finished.path)


def test_a_finished_store_is_loaded_not_computed(textured_slide, model, finished):
    before = files_of(finished.path)
    again = score(textured_slide, model, finished.path, **FAST)
    assert again.complete
    assert again.probabilities == finished.probabilities
    messages = [step.message for step in again]
    assert "scoring" not in messages
    assert "preparing the model" not in messages
    assert files_of(finished.path) == before


def test_a_store_opens_without_its_model(finished, model, tmp_path):
    stored = open_run(finished.path)
    assert isinstance(stored, ZoomRun)
    assert stored.complete
    assert (stored.result, stored.trace) == (finished.result, finished.trace)
    assert (stored.mpps, stored.exhaustive, stored.name) == (MPPS, False, "textured")
    assert stored.classes == ("normal", "tumor")
    assert stored.score_kind == "attention logit"
    assert stored.total == stored.done == finished.total
    for level, other in zip(stored.levels, finished.levels, strict=True):
        assert level.grid == other.grid
        assert set(level.maps) == set(other.maps)
        for name, values in level.maps.items():
            np.testing.assert_array_equal(values, other.maps[name])
    assert stored.slide.mpp == (0.5, 0.5)
    assert list(stored) == []
    with pytest.raises(RunError, match="opened without its model"):
        stored.update_maps()
    one = open_run(finished.path / "magnifications" / "1")
    assert isinstance(one, Run)
    assert one.complete
    np.testing.assert_array_equal(
        one.maps["attention/all"], finished.levels[1].maps["attention/all"]
    )


def test_a_store_opens_with_its_model_and_no_other(finished, model):
    again = open_run(finished.path, model)
    output = again.update_maps()
    np.testing.assert_allclose(output.logits, finished.result["logits"])
    with pytest.raises(StoreMismatchError, match="another model"):
        open_run(finished.path, zooming(k_sample=2))


def test_other_results_are_never_mixed_in(tmp_path, textured_slide, model, finished, tiny_model):
    before = files_of(finished.path)
    cases = {
        "another way of opening tiles": (model, {"exhaustive": True}),
        "another model": (zooming(k_sample=2), {}),
        r"other magnifications.*\[2\.0, 1\.0\] here": (zooming((2.0, 1.0)), {}),
        "another selection of tissue": (model, {"min_tissue": 0.9}),
        "another block size": (model, {"block_tiles": 8}),
    }
    for words, (other, options) in cases.items():
        with pytest.raises(StoreMismatchError, match=words) as caught:
            score(textured_slide, other, finished.path, **{**FAST, **options})
        assert "\n" not in str(caught.value)
    with pytest.raises(StoreMismatchError, match="float32, not bfloat16"):
        score(textured_slide, model, finished.path, **{**FAST, "precision": "bfloat16"})
    with pytest.raises(StoreError, match="'magnifications', not 'tiles'"):
        score(textured_slide, tiny_model, finished.path, **FAST)
    plain = tmp_path / "plain.wsixai.zarr"
    score(textured_slide, tiny_model, plain, **FAST)
    with pytest.raises(StoreError, match="'tiles', not 'magnifications'"):
        score(textured_slide, model, plain, **FAST)
    assert files_of(finished.path) == before


def test_a_region_cannot_be_chosen(textured_slide, model):
    with pytest.raises(BadArgumentError, match="3 magnifications"):
        score(textured_slide, model, region=Region(0, 0, 100, 100), **FAST)


def test_one_magnification_takes_exhaustive_for_granted(textured_slide, tiny_model):
    run = score(textured_slide, tiny_model, exhaustive=True, **FAST)
    assert isinstance(run, Run)


def test_what_is_in_view_comes_first_at_every_magnification(textured_slide, model):
    run = score(textured_slide, zooming(k_sample=12), **FAST)
    view = Region(900, 900, 10, 10)
    run.focus(view)
    first = {}
    for step in run:
        level = run.levels[step.level]
        done = level.store.blocks_done()
        if len(done) == 1 and step.level not in first:
            first[step.level] = next(iter(done))
    assert set(first) == {0, 1, 2}
    for number, block in first.items():
        level = run.levels[number]
        size = 4 * np.asarray(level.grid.stride_level0)

        def distance(b, size=size):
            low = np.array([b.row, b.col]) * size
            return np.hypot(*np.maximum(0, np.maximum(low - 910, 900 - (low + size))))

        assert distance(block) == min(map(distance, level.plan.blocks))


def test_in_memory_all_magnifications_are_one_store(textured_slide, model, finished):
    run = score(textured_slide, model, **FAST).compute()
    assert run.path is None
    assert run.result == finished.result
    for number, level in enumerate(run.levels):
        inner = run.store.group[f"magnifications/{number}/maps/attention/all/0"]
        np.testing.assert_array_equal(inner[:], level.maps["attention/all"])


def test_overhanging_tiles_are_a_part_of_it(tmp_path, write_slide):
    """600 px in tiles of 512: what the second coarse tile holds is found, white beyond."""
    rgb = np.full((600, 600, 3), 244, dtype=np.uint8)
    noise = np.random.default_rng(0).integers(-30, 30, (88, 600, 3))
    rgb[512:] = np.array([180, 90, 150]) + noise
    slide = write_slide(tmp_path / "edge.ome.tif", rgb)
    model = zooming((4.0, 1.0), tile_px=64, k_sample=2)
    run = score(slide, model, min_tissue=0.05, **FAST).compute()
    assert run.levels[0].grid.shape == (2, 2)
    assert run.levels[0].tissue[1].any()
    assert run.complete
    assert not run.failures

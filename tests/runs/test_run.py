from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from napari_wsi_xai.errors import BadArgumentError, GridError, StoreMismatchError
from napari_wsi_xai.geometry import Region
from napari_wsi_xai.models import build_model, save_model
from napari_wsi_xai.runs import open_run, score, top_tiles
from napari_wsi_xai.tiles import TissueOptions

FAST = {"engine": "torch", "precision": "float32", "block_tiles": 4}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_run_from_slide_to_stored_result(tmp_path, textured_slide, tiny_model):
    out = tmp_path / "a.wsixai.zarr"
    run = score(textured_slide, tiny_model, out, **FAST)
    steps = list(run)
    assert run.complete
    assert steps[-1].tiles_done == steps[-1].tiles_total == run.total
    assert [s.tiles_done for s in steps] == sorted(s.tiles_done for s in steps)
    assert steps[-1].message == "complete"
    assert 0 < steps[-1].read_share < 1
    assert sum(run.probabilities.values()) == pytest.approx(1)
    attention = run.maps["attention/all"]
    assert np.nansum(attention) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(np.isfinite(attention), run.tissue)

    stored = open_run(out)
    assert stored.complete
    assert stored.result == run.result
    assert stored.grid == run.grid
    for name, values in run.maps.items():
        np.testing.assert_array_equal(stored.maps[name], values)


def test_the_maps_reproduce_the_slides_logit(textured_slide, tiny_model):
    """Features, attention and classifier put together by hand give the reported decision."""
    import torch

    run = score(textured_slide, tiny_model, **FAST).compute()
    bag = run.features.compute()[run.tissue]
    with torch.inference_mode():
        output = tiny_model.mil(torch.from_numpy(bag))
    np.testing.assert_allclose(run.result["logits"], output.logits, rtol=1e-5)
    np.testing.assert_allclose(run.maps["attention/all"][run.tissue], output.attention[:, 0], 1e-4)
    by_hand = run.maps["attention/all"][run.tissue] @ bag
    logits = tiny_model.mil.decide(torch.from_numpy(by_hand)).detach()
    np.testing.assert_allclose(run.result["logits"], logits, rtol=1e-4)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_cancelled_run_goes_on_to_the_same_bits(tmp_path, textured_slide, tiny_model, stop_after):
    whole = score(textured_slide, tiny_model, tmp_path / "whole.wsixai.zarr", **FAST).compute()
    out = tmp_path / "parts.wsixai.zarr"
    run = score(textured_slide, tiny_model, out, **FAST)
    for step in run:
        if step.blocks_done >= stop_after:
            run.cancel()
    assert not run.complete
    assert run.done < run.total
    provisional = run.update_maps()
    assert len(provisional.tile_scores) == run.done
    assert run.result["complete"] is False
    again = score(textured_slide, tiny_model, out, **FAST)
    first = next(iter(again))
    assert first.tiles_done == run.done
    again.compute()
    assert again.result == whole.result
    assert files_of(out) == files_of(whole.path)


KILLED = """
    import sys, time
    from napari_wsi_xai.models import load_model
    from napari_wsi_xai.runs import score
    slide, model, out = sys.argv[1:]
    run = score(slide, load_model(model), out, engine="torch", precision="float32", block_tiles=4)
    for step in run:
        print(step.blocks_done, flush=True)
        time.sleep(0.2 if step.blocks_done == 2 else 0)
"""


def test_sigkill_loses_no_finished_block(tmp_path, textured_slide, tiny_model):
    bundle = save_model(tiny_model, tmp_path / "model")
    out = tmp_path / "killed.wsixai.zarr"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(textured_slide), str(bundle), str(out)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 2:
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    kept = {p: p.stat().st_mtime_ns for p in (out / "features" / "c").rglob("0") if p.is_file()}
    run = score(textured_slide, bundle, out, **FAST)
    assert 2 <= len(kept) < len(run.plan.blocks)
    run.compute()
    assert {p: p.stat().st_mtime_ns for p in kept} == kept  # not computed twice
    whole = score(textured_slide, bundle, tmp_path / "whole.wsixai.zarr", **FAST).compute()
    assert files_of(out) == files_of(whole.path)


def test_a_finished_store_is_loaded_not_computed(tmp_path, textured_slide, tiny_model):
    out = tmp_path / "a.wsixai.zarr"
    first = score(textured_slide, tiny_model, out, **FAST).compute()
    before = {p: p.stat().st_mtime_ns for p in (out / "features").rglob("*")}
    again = score(textured_slide, tiny_model, out, **FAST)
    assert again.complete
    assert again.probabilities == first.probabilities
    messages = [step.message for step in again]
    assert "scoring" not in messages
    assert "preparing the model" not in messages
    assert {p: p.stat().st_mtime_ns for p in (out / "features").rglob("*")} == before


def test_what_is_in_view_comes_first(textured_slide, tiny_model):
    run = score(textured_slide, tiny_model, **FAST)
    view = Region(900, 900, 100, 100)
    run.focus(view)
    order: list[tuple[int, int]] = []
    known: set[object] = set()
    for _ in run:
        fresh = run.store.blocks_done() - known
        known |= fresh
        order += [(b.row, b.col) for b in sorted(fresh)]
    centres = (np.array(order) + 0.5) * 4 * 64
    distance = np.hypot(*(centres - [950, 950]).T)
    assert distance[0] == distance.min()
    assert np.argmax(distance) >= len(order) - 3


def test_a_region_is_a_part_of_the_same_run(tmp_path, textured_slide, tiny_model):
    out = tmp_path / "a.wsixai.zarr"
    part = score(textured_slide, tiny_model, out, region=Region(500, 600, 50, 50), **FAST)
    steps = list(part)
    assert steps[-1].message == "region complete"
    assert steps[-1].tiles_done == steps[-1].tiles_total == part.done
    assert 0 < part.done < part.total
    assert part.result["complete"] is False
    whole = score(textured_slide, tiny_model, out, **FAST).compute()
    assert whole.complete
    fresh = score(textured_slide, tiny_model, **FAST).compute()
    assert whole.result == fresh.result
    with pytest.raises(GridError, match="no tissue tile in the chosen region"):
        score(textured_slide, tiny_model, region=Region(0, 0, 10, 10), **FAST)


def test_other_results_are_never_mixed_in(tmp_path, textured_slide, tiny_model, write_slide):
    out = tmp_path / "a.wsixai.zarr"
    score(textured_slide, tiny_model, out, **FAST).compute()
    before = files_of(out)
    other = build_model(tiny_model.encoder, "mean", tiny_model.classes, tile_px=64, mpp=0.5)
    cases = {
        "another model": (textured_slide, other, {}),
        "another selection of tissue": (textured_slide, tiny_model, {"min_tissue": 0.9}),
        "another block size": (textured_slide, tiny_model, {"block_tiles": 8}),
    }
    rgb = np.random.default_rng(0).integers(80, 200, (1200, 1500, 3)).astype(np.uint8)
    path = write_slide(tmp_path / "other.ome.tif", rgb)
    cases["another slide"] = (path, tiny_model, {"tissue": TissueOptions(method="none")})
    cases["another tile grid"] = (textured_slide, tiny_model, {"mpp": 0.6})
    for words, (slide, model, options) in cases.items():
        with pytest.raises(StoreMismatchError, match=words) as caught:
            score(slide, model, out, **{**FAST, **options})
        assert "\n" not in str(caught.value)
    with pytest.raises(StoreMismatchError, match="float32, not bfloat16"):
        score(textured_slide, tiny_model, out, **{**FAST, "precision": "bfloat16"})
    with pytest.raises(StoreMismatchError, match="another model"):
        open_run(out, other)
    assert files_of(out) == before


def test_lazy_arrays_compute_only_what_is_asked_for(tmp_path, textured_slide, tiny_model):
    run = score(textured_slide, tiny_model, tmp_path / "lazy.wsixai.zarr", **FAST)
    assert run.features.shape == (*run.grid.shape, tiny_model.encoder.dim)
    row, col = np.argwhere(run.tissue)[run.total // 2]
    one = run.features[row, col].compute()
    assert np.isfinite(one).all()
    assert len(run.store.blocks_done()) == 1
    scores = run.tile_scores[row, col].compute()
    whole = score(textured_slide, tiny_model, **FAST).compute()
    np.testing.assert_array_equal(one, whole.features[row, col].compute())
    np.testing.assert_allclose(scores[0], whole.maps["tile-scores/all"][row, col], rtol=1e-5)
    all_scores = run.tile_scores.compute()[..., 0]
    np.testing.assert_allclose(all_scores, whole.maps["tile-scores/all"], rtol=1e-4, equal_nan=True)
    assert set(run.plan.blocks) == run.store.blocks_done()
    assert run.complete
    assert "scoring" not in [step.message for step in run]
    assert run.result == whole.result


def test_float16_store_keeps_the_decision(tmp_path, textured_slide, tiny_model):
    full = score(textured_slide, tiny_model, **FAST).compute()
    half = score(textured_slide, tiny_model, feature_dtype="float16", **FAST).compute()
    assert half.store.features.dtype == np.float16
    np.testing.assert_allclose(half.result["logits"], full.result["logits"], atol=1e-2)


@pytest.mark.parametrize("source", ["polygons", "file", "mask"])
def test_tissue_replaced(tmp_path, textured_slide, tiny_model, source):
    import shapely

    from napari_wsi_xai.annotations import Annotation, write_geojson
    from napari_wsi_xai.tiles import TissueMask

    box = shapely.box(384, 256, 384 + 320, 256 + 192)  # x, y: exactly 5 x 3 tiles of 64 px
    tissue = {
        "polygons": [box],
        "file": write_geojson(tmp_path / "t.geojson", [Annotation(box, "tissue")]),
        "mask": TissueMask(np.pad(np.ones((3, 5), bool), ((4, 9), (6, 9))), (0, 0), (64, 64)),
    }[source]
    run = score(textured_slide, tiny_model, tissue=tissue, min_tissue=0.9, **FAST)
    assert run.total == 15
    rows, cols = np.nonzero(run.tissue)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (4, 6, 6, 10)


def test_cancel_acts_within_a_block(textured_slide, tiny_model):
    run = score(textured_slide, tiny_model, engine="torch", precision="float32", block_tiles=32)
    steps = iter(run)
    next(steps)
    run.prepare()
    encode = run._engine.encode
    calls = []

    def slow(tiles):
        calls.append(len(tiles))
        run.cancel()
        return encode(tiles)

    run._engine.encode = slow
    rest = list(steps)
    assert rest[-1].message == "cancelled"
    assert len(calls) == 1
    assert run.done == 0


@pytest.mark.parametrize(
    "options", [{"block_tiles": 0}, {"batch_size": 0}, {"feature_dtype": "int8"}]
)
def test_bad_arguments(textured_slide, tiny_model, options):
    with pytest.raises(BadArgumentError):
        score(textured_slide, tiny_model, **options)


def test_time_left_is_unknown_then_shrinks(textured_slide, tiny_model):
    steps = list(score(textured_slide, tiny_model, **FAST))
    assert steps[0].eta_s is None
    assert steps[-1].eta_s == 0
    assert steps[-1].tiles_per_s > 0


def test_top_tiles_are_the_highest(textured_slide, tiny_model):
    run = score(textured_slide, tiny_model, **FAST).compute()
    values = run.maps["tile-scores/all"]
    best = top_tiles(values, run.grid, 5)
    expected = np.sort(values[np.isfinite(values)])[::-1][:5]
    np.testing.assert_array_equal([t.score for t in best], expected)
    for tile in best:
        assert values[tile.row, tile.column] == np.float32(tile.score)
        corner = run.grid.origins_level0([[tile.row, tile.column]])[0]
        assert (tile.y_level0, tile.x_level0) == tuple(corner)


def test_other_processes_compute_the_same_blocks(tmp_path, textured_slide, tiny_model):
    """dask runs blocks in worker processes, which reopen slide, model and store themselves."""
    bundle = save_model(tiny_model, tmp_path / "model")
    out = tmp_path / "far.wsixai.zarr"
    run = score(textured_slide, bundle, out, **FAST)
    far = run.features.compute(scheduler="processes", num_workers=2)
    assert set(run.plan.blocks) == run.store.blocks_done()
    near = score(textured_slide, bundle, **FAST).compute()
    np.testing.assert_array_equal(far, near.features.compute())

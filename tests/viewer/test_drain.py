"""The stream of events of a run."""

from __future__ import annotations

import pickle
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_wsi_xai.errors import NoTissueError
from napari_wsi_xai.geometry import Region
from napari_wsi_xai.tiles import TissueOptions
from napari_wsi_xai.viewer import drain as module
from napari_wsi_xai.viewer.drain import (
    Failed,
    Finished,
    Planned,
    Preparing,
    RunControl,
    Stepped,
    drain,
)
from napari_wsi_xai.viewer.model_choice import ModelChoice
from napari_wsi_xai.viewer.scoring import ScoreInputs, TissueChoice, plan_run


@pytest.fixture
def inputs(slide_path: Path, model_path: Path, tmp_path: Path) -> ScoreInputs:
    model = ModelChoice("bundle", path=model_path)
    return ScoreInputs(str(slide_path), "small", model=model, folder=tmp_path, precision="float32")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell of every step."""
    monkeypatch.setattr(module, "STEPS_EVERY_S", 0.0)
    monkeypatch.setattr(module, "MAPS_EVERY_S", 0.0)
    monkeypatch.setattr(module, "MAPS_SHARE", 1.0)


def test_layers_come_empty_first_then_fill_and_end_as_the_headless_result(
    inputs: ScoreInputs, finished: Any, eager: None
) -> None:
    events = list(drain(partial(plan_run, inputs), RunControl()))
    kinds = [type(event) for event in events]
    assert kinds.index(Planned) < kinds.index(Stepped)
    assert kinds[0] is Preparing
    assert kinds[-1] is Finished
    planned = events[kinds.index(Planned)]
    assert planned.snapshot.maps.keys() == finished.maps.keys()
    assert all(np.isnan(values).all() for values in planned.snapshot.maps.values())
    shown = [e.snapshot for e in events if isinstance(e, Stepped) and e.snapshot is not None]
    done = [int(np.isfinite(s.maps["tile-scores/all"]).sum()) for s in shown]
    assert done == sorted(done)
    assert 0 < done[0] < finished.total
    assert shown[0].standing == f"provisional, {done[0]} of {finished.total} tissue tiles"
    last = events[-1]
    assert not last.cancelled
    assert last.snapshot.complete
    for key, values in finished.maps.items():
        np.testing.assert_array_equal(last.snapshot.maps[key], values)
    assert last.snapshot.probabilities == finished.probabilities


def test_snapshots_are_copies(inputs: ScoreInputs, eager: None) -> None:
    shown = [
        event.snapshot
        for event in drain(partial(plan_run, inputs), RunControl())
        if isinstance(event, Stepped) and event.snapshot is not None
    ]
    first, second = shown[0].maps["tile-scores/all"], shown[1].maps["tile-scores/all"]
    assert np.isfinite(second).sum() > np.isfinite(first).sum()


def test_events_travel_between_processes(inputs: ScoreInputs) -> None:
    for event in drain(partial(plan_run, inputs), RunControl()):
        assert type(pickle.loads(pickle.dumps(event))) is type(event)


def test_cancelling_keeps_what_is_done_and_the_next_run_goes_on(
    inputs: ScoreInputs, eager: None
) -> None:
    control = RunControl()
    last: Any = None
    for event in drain(partial(plan_run, inputs), control):
        last = event
        if isinstance(event, Stepped) and event.snapshot is not None:
            control.cancel()
    assert isinstance(last, Finished)
    assert last.cancelled
    assert 0 < last.snapshot.done < last.snapshot.total
    events = list(drain(partial(plan_run, inputs), RunControl()))
    planned = next(event for event in events if isinstance(event, Planned))
    assert planned.snapshot.done == last.snapshot.done
    assert np.isfinite(planned.snapshot.maps["tile-scores/all"]).sum() == last.snapshot.done
    assert events[-1].snapshot.complete


def test_cancelling_before_the_run_is_planned_ends_without_one(inputs: ScoreInputs) -> None:
    control = RunControl()
    events = []
    for event in drain(partial(plan_run, inputs), control):
        events.append(event)
        control.cancel()
    assert [type(event) for event in events] == [Preparing, Finished]
    assert events[-1].snapshot is None


def test_cancelling_between_plan_and_first_tile_is_heard(inputs: ScoreInputs) -> None:
    control = RunControl()
    for event in drain(partial(plan_run, inputs), control):
        if isinstance(event, Planned):
            control.cancel()
    assert event.cancelled
    assert event.snapshot is None


def test_a_finished_store_is_loaded(inputs: ScoreInputs) -> None:
    list(drain(partial(plan_run, inputs), RunControl()))
    events = list(drain(partial(plan_run, inputs), RunControl()))
    assert not any(isinstance(event, Stepped) for event in events)
    assert events[-1].loaded
    assert events[-1].snapshot.complete


def test_errors_are_sentences_of_the_error_tree(inputs: ScoreInputs, no_mpp_path: Path) -> None:
    from dataclasses import replace

    wanted = replace(inputs, source=str(no_mpp_path))
    (*_, missing) = drain(partial(plan_run, wanted), RunControl())
    assert missing.missing_mpp
    assert "\n" not in missing.message
    hopeless = TissueChoice(TissueOptions(min_fraction=1.0, saturation=1.0))
    (*_, none) = drain(partial(plan_run, replace(inputs, tissue=hopeless)), RunControl())
    assert isinstance(none, Failed)
    assert "no tissue" in none.message


@pytest.mark.parametrize("error", [RuntimeError("first line\nsecond"), MemoryError(), KeyError()])
def test_any_other_error_is_one_sentence_too(error: Exception) -> None:
    def plan() -> Generator[str, None, Any]:
        yield "Working"
        raise error

    (*_, failed) = drain(plan, RunControl())
    assert isinstance(failed, Failed)
    assert "\n" not in failed.message
    assert failed.message


def test_focus_reaches_the_run(inputs: ScoreInputs, eager: None) -> None:
    control = RunControl()
    control.focus(None)  # before there is a run: no harm
    asked: list[Region | None] = []

    class Run:
        def focus(self, region: Region | None) -> None:
            asked.append(region)

        def cancel(self) -> None:
            raise AssertionError

    control.attach(Run())  # type: ignore[arg-type]
    control.focus(Region(1, 2, 3, 4))
    assert asked == [Region(1, 2, 3, 4)]


def test_no_tissue_error_is_of_the_tree() -> None:
    def plan() -> Generator[str, None, Any]:
        yield "Finding tissue"
        raise NoTissueError("no tissue: 0 %.")

    assert list(drain(plan, RunControl()))[-1] == Failed("no tissue: 0 %.")

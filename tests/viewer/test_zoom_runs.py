"""Real runs over several magnifications, from the stream of events to layers and back."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from napari.components import ViewerModel

from napari_wsi_xai.geometry import Region
from napari_wsi_xai.viewer import drain as module
from napari_wsi_xai.viewer.drain import Failed, Finished, Planned, RunControl, Stepped, drain
from napari_wsi_xai.viewer.layers import add_layers, layers_of_run
from napari_wsi_xai.viewer.model_choice import ModelChoice
from napari_wsi_xai.viewer.process import ProcessRun
from napari_wsi_xai.viewer.reader import get_reader, read_run
from napari_wsi_xai.viewer.scoring import ScoreInputs, plan_run
from napari_wsi_xai.viewer.slide_layers import METADATA_KEY, slide_layer_data
from napari_wsi_xai.viewer.states import facts_of
from napari_wsi_xai.viewer.widgets.wording import trace_lines
from napari_wsi_xai.viewer.writer import write_run

NAMES = ["attention · 4 µm/px", "attention · 1 µm/px", "attention · 0.5 µm/px", "opened tiles"]


@pytest.fixture
def inputs(slide_path: Path, zoom_model_path: Path, tmp_path: Path) -> ScoreInputs:
    model = ModelChoice("bundle", path=zoom_model_path)
    return ScoreInputs(str(slide_path), "small", model=model, folder=tmp_path, precision="float32")


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell of every step."""
    monkeypatch.setattr(module, "STEPS_EVERY_S", 0.0)
    monkeypatch.setattr(module, "MAPS_EVERY_S", 0.0)
    monkeypatch.setattr(module, "MAPS_SHARE", 1.0)


def begun(snapshot: Any) -> int:
    return sum(level.attention is not None for level in snapshot.levels)


def assert_ends_as(snapshot: Any, run: Any) -> None:
    assert snapshot.complete
    assert snapshot.probabilities == run.probabilities
    for level, there in zip(snapshot.levels, run.levels, strict=True):
        np.testing.assert_array_equal(level.attention, there.maps["attention/all"])
    assert [level.trace for level in snapshot.levels] == list(run.trace.levels)


def test_magnifications_come_one_after_the_other_and_end_as_the_headless_result(
    inputs: ScoreInputs, zoomed: Any, eager: None
) -> None:
    events = list(drain(partial(plan_run, inputs), RunControl()))
    planned = next(event for event in events if isinstance(event, Planned))
    assert begun(planned.snapshot) == 1
    assert np.isnan(planned.snapshot.levels[0].attention).all()
    assert not planned.snapshot.labels.any()
    steps = [event for event in events if isinstance(event, Stepped)]
    wheres = list(dict.fromkeys(event.where for event in steps))
    assert wheres == ["4 µm/px", "1 µm/px", "0.5 µm/px"]
    shown = [event.snapshot for event in steps if event.snapshot is not None]
    counts = [begun(snapshot) for snapshot in shown]
    assert counts == sorted(counts)
    assert set(counts) == {1, 2, 3}
    partial_fine = [s for s in shown if begun(s) == 2 and not s.levels[1].complete]
    assert any(np.isfinite(s.levels[1].attention).any() for s in partial_fine)
    last = events[-1]
    assert isinstance(last, Finished)
    assert_ends_as(last.snapshot, zoomed)


def test_frames_are_what_the_run_has_opened(inputs: ScoreInputs, zoomed: Any) -> None:
    (*_, last) = drain(partial(plan_run, inputs), RunControl())
    features = last.snapshot.features
    rows = list(zip(*(features[k] for k in ("magnification", "row", "column")), strict=True))[1:]
    expected = {
        (f"{level.grid.mpp:g} µm/px", int(row), int(column))
        for level in zoomed.levels[:-1]
        for row, column in np.argwhere(level.maps["opened/all"] == 1)
    }
    assert len(rows) == 6
    assert set(rows) == expected
    for name, row, column, weight in zip(
        *(features[k][1:] for k in ("magnification", "row", "column", "selection weight")),
        strict=True,
    ):
        level = zoomed.levels[0 if name == "4 µm/px" else 1]
        assert level.maps["selection/all"][row, column] == pytest.approx(weight)


def test_events_travel_between_processes(inputs: ScoreInputs, zoomed: Any) -> None:
    run = ProcessRun(inputs)
    for event in run.events():
        assert type(pickle.loads(pickle.dumps(event))) is type(event)
        if isinstance(event, Planned):
            run.focus(Region(1000, 1000, 10, 10))
    assert_ends_as(event.snapshot, zoomed)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_cancelling_at_any_magnification_keeps_what_is_done(
    inputs: ScoreInputs, zoomed: Any, eager: None, at: int
) -> None:
    control = RunControl()
    last: Any = None
    for event in drain(partial(plan_run, inputs), control):
        last = event
        snapshot = event.snapshot if isinstance(event, Stepped) else None
        if snapshot is not None and begun(snapshot) == at:
            control.cancel()
    assert isinstance(last, Finished)
    assert last.cancelled
    assert not last.snapshot.complete
    events = list(drain(partial(plan_run, inputs), RunControl()))
    planned = next(event for event in events if isinstance(event, Planned))
    assert planned.snapshot.done == last.snapshot.done > 0
    assert_ends_as(events[-1].snapshot, zoomed)


def test_a_finished_store_is_loaded(inputs: ScoreInputs, zoomed: Any) -> None:
    list(drain(partial(plan_run, inputs), RunControl()))
    events = list(drain(partial(plan_run, inputs), RunControl()))
    assert not any(isinstance(event, Stepped) for event in events)
    assert events[-1].loaded
    assert_ends_as(events[-1].snapshot, zoomed)


def test_a_region_is_refused_in_words(inputs: ScoreInputs) -> None:
    for region in (Region(0, 0, 500, 500), (shapely.box(0, 0, 500, 500),)):
        (*_, last) = drain(partial(plan_run, replace(inputs, region=region)), RunControl())
        assert isinstance(last, Failed)
        assert "a region cannot be chosen with 3 magnifications" in last.message


def test_a_result_opens_as_maps_over_its_slide(zoomed: Any, tmp_path: Path) -> None:
    assert get_reader(str(zoomed.path)) is read_run
    viewer = ViewerModel()
    tuples = read_run(str(zoomed.path))
    layers = [viewer._add_layer_from_data(*data)[0] for data in tuples]
    assert [layer.name for layer in layers] == ["small", *(f"small · {name}" for name in NAMES)]
    for layer, level in zip(layers[1:4], zoomed.levels, strict=True):
        np.testing.assert_array_equal(layer.data, level.maps["attention/all"])
        assert layer.metadata[METADATA_KEY]["provisional"] is False
    copy = tmp_path / "copy.wsixai.zarr"
    written = write_run(str(copy), tuples)
    assert written == [str(copy)]
    assert [data[1]["name"] for data in read_run(str(copy))] == [layer.name for layer in layers]


def test_add_layers_shows_a_run_over_its_slide(zoomed: Any) -> None:
    viewer = ViewerModel()
    slide_layer = viewer._add_layer_from_data(*slide_layer_data(zoomed.slide))[0]
    layers = add_layers(viewer, zoomed)
    assert [layer.name for layer in layers] == [f"small · {name}" for name in NAMES]
    assert viewer.layers.selection.active is slide_layer
    assert layers_of_run(viewer, facts_of(zoomed)) == layers
    # Coarse tiles cover the slide wholly and may overhang it; finer ones never more than these.
    low, high = layers[0].extent.world
    for layer in layers[1:]:
        pixel = np.asarray(layer.scale) / 2
        np.testing.assert_allclose(layer.extent.world[0] - pixel, low - layers[0].scale / 2)
        np.testing.assert_allclose(layer.extent.world[1] + pixel, high + layers[0].scale / 2)


def finish(inputs: ScoreInputs) -> Any:
    (*_, last) = drain(partial(plan_run, inputs), RunControl())
    assert isinstance(last, Finished)
    return last.snapshot


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ("msmil", ["attention · 4 µm/px", "attention · 1 µm/px"]),
        ("dsmil", ["attention · tumor · 1 µm/px"]),
    ],
)
def test_heads_that_read_everything_open_nothing(
    inputs: ScoreInputs,
    make_zoom_model: Callable[..., Path],
    tmp_path: Path,
    head: str,
    names: list[str],
) -> None:
    model = ModelChoice("bundle", path=make_zoom_model(tmp_path, head, (4, 1)))
    snapshot = finish(replace(inputs, model=model))
    assert not snapshot.labels.any()
    first, *others = [text for text, _ in trace_lines(snapshot)]
    assert first == f"Read {snapshot.done:,} of {snapshot.done:,} tiles (100 %)"
    assert [text.split()[0] for text in others] == ["Colours:"]
    store = next(tmp_path.glob("*.wsixai.zarr"))
    shown = [data[1]["name"].removeprefix("small · ") for data in read_run(str(store))[1:]]
    assert shown == names

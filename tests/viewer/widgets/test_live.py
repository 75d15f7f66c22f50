"""A run on show, driven by hand."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zoom_cases import FACTS, make_snapshot

from napari_wsi_xai.geometry import Region
from napari_wsi_xai.runs import Progress
from napari_wsi_xai.viewer.drain import Event, Failed, Finished, Planned, Preparing, Stepped
from napari_wsi_xai.viewer.live import LiveRun
from napari_wsi_xai.viewer.reader import read_slide
from napari_wsi_xai.viewer.snapshot import RunFacts, Snapshot


class Script:
    """A run whose events the test puts in; ``None`` ends it."""

    def __init__(self) -> None:
        self.coming: queue.Queue[Event | None] = queue.Queue()
        self.focused: list[Region | None] = []
        self.cancelled = False

    def events(self) -> Iterator[Event]:
        while (event := self.coming.get(timeout=20)) is not None:
            yield event

    def cancel(self) -> None:
        self.cancelled = True

    def focus(self, region_level0: Region | None) -> None:
        self.focused.append(region_level0)

    def abandon(self) -> None:
        self.coming.put(None)


class Stage:
    """A window with a slide, and a live run in it that has just been planned."""

    def __init__(self, viewer: Any, qtbot: Any, slide: Path, run: Any) -> None:
        from napari.layers import Layer

        self.viewer, self.qtbot, self.run = viewer, qtbot, run
        viewer.add_layer(Layer.create(*read_slide(str(slide))[0]))
        self.source = Script()
        self.live = LiveRun(viewer, self.source)
        self.ends: list[Any] = []
        self.live.finished.connect(self.ends.append)
        self.live.failed.connect(self.ends.append)
        self.live.start()
        empty = {key: np.full_like(values, np.nan) for key, values in run.maps.items()}
        self.source.coming.put(
            Planned(RunFacts.of(run), Snapshot.of(run, maps=empty), run.slide.shape)
        )
        qtbot.waitUntil(lambda: len(self.live.layers) == 3, timeout=10_000)
        qtbot.waitUntil(lambda: viewer.layers.selection.active.name == "small", timeout=5000)

    def send(self, event: Event | None) -> None:
        self.source.coming.put(event)


@pytest.fixture
def stage(
    make_napari_viewer_proxy: Callable[..., Any], qtbot: Any, slide_path: Path, finished: Any
) -> Iterator[Stage]:
    here = Stage(make_napari_viewer_proxy(), qtbot, slide_path, finished)
    yield here
    here.send(None)
    qtbot.waitUntil(lambda: not here.live.running, timeout=5000)


def test_layers_are_empty_at_first_and_fill_in_place(stage: Stage) -> None:
    image = stage.viewer.layers["small · tile score"]
    assert np.isnan(image.data).all()
    array = image.data
    progress = Progress(182, 182, 4, 4, 10.0, 1, 1, 0.0, 0, "scoring")
    with stage.qtbot.waitSignal(stage.live.stepped):
        stage.send(Stepped(progress, Snapshot.of(stage.run)))
    np.testing.assert_array_equal(array, stage.run.maps["tile-scores/all"])
    assert not image.colorbar.visible
    with stage.qtbot.waitSignal(stage.live.finished):
        stage.send(Finished(Snapshot.of(stage.run), cancelled=False))
    assert image.colorbar.visible
    assert not stage.live.running


def test_a_step_without_new_maps_repaints_nothing(stage: Stage) -> None:
    progress = Progress(3, 182, 0, 4, None, 0, 0, None, 0, "scoring")
    with stage.qtbot.waitSignal(stage.live.stepped):
        stage.send(Stepped(progress, None))
    assert np.isnan(stage.viewer.layers["small · tile score"].data).all()


def test_the_run_hears_of_a_new_view_once_the_camera_rests(stage: Stage) -> None:
    camera = stage.viewer.scene.camera
    for step in range(20):
        camera.center, camera.zoom = (0, 100.0 + step, 200.0), 10.0
    stage.qtbot.waitUntil(lambda: bool(stage.source.focused), timeout=5000)
    stage.qtbot.wait(300)
    assert len(stage.source.focused) == 1
    region = stage.source.focused[0]
    assert region is not None
    # Micrometres 119, 200 at 0.5 um per pixel are level-0 pixels 238, 400.
    assert region.y < 238 < region.y + region.height
    assert region.x < 400 < region.x + region.width
    assert region.y + region.height / 2 == pytest.approx(238.5, abs=2)


def test_removed_maps_are_left_alone_and_the_last_one_cancels(stage: Stage) -> None:
    stage.viewer.layers.remove("small · attention")
    assert len(stage.live.layers) == 2
    assert not stage.source.cancelled
    progress = Progress(182, 182, 4, 4, 10.0, 1, 1, 0.0, 0, "scoring")
    with stage.qtbot.waitSignal(stage.live.stepped):
        stage.send(Stepped(progress, Snapshot.of(stage.run)))
    stage.viewer.layers.remove("small · tile score")
    stage.viewer.layers.remove("small · top tiles")
    assert stage.source.cancelled


def test_other_layers_come_and_go_without_harm(stage: Stage) -> None:
    stage.viewer.add_points([[1, 1]], name="mark")
    stage.viewer.layers.remove("mark")
    assert not stage.source.cancelled
    assert len(stage.live.layers) == 3


def test_a_failure_ends_the_run_once_and_stops_listening_to_the_camera(stage: Stage) -> None:
    with stage.qtbot.waitSignal(stage.live.failed):
        stage.send(Failed("no space left."))
    stage.send(None)
    stage.viewer.scene.camera.center = (0, 5.0, 5.0)
    stage.qtbot.wait(300)
    assert stage.ends == [Failed("no space left.")]
    assert stage.source.focused == []


def test_a_worker_that_is_made_to_quit_ends_the_run(stage: Stage) -> None:
    with stage.qtbot.waitSignal(stage.live.finished) as blocker:
        stage.live._worker.quit()
    assert blocker.args[0].cancelled


def test_messages_come_through(stage: Stage) -> None:
    with stage.qtbot.waitSignal(stage.live.preparing) as blocker:
        stage.send(Preparing("Finding tissue"))
    assert blocker.args == ["Finding tissue"]


class ZoomStage:
    """A window with a slide, and a live run over three magnifications."""

    def __init__(self, viewer: Any, qtbot: Any, slide: Path) -> None:
        from napari.layers import Layer

        self.viewer, self.qtbot = viewer, qtbot
        viewer.add_layer(Layer.create(*read_slide(str(slide))[0]))
        self.source = Script()
        self.live = LiveRun(viewer, self.source)
        self.live.start()
        self.source.coming.put(Planned(FACTS, make_snapshot(1, complete=False), (1500, 1900)))
        self.wait_for("attention · 8 µm/px")

    def show(self, snapshot: Any) -> None:
        progress = Progress(1, 2, 1, 2, 10.0, 1, 1, 0.0, 0, "scoring", 1, 3, 2.0)
        with self.qtbot.waitSignal(self.live.stepped):
            self.source.coming.put(Stepped(progress, snapshot, "2 µm/px"))

    def wait_for(self, *names: str) -> None:
        expected = ["small", *(f"s · {name}" for name in names)]
        self.qtbot.waitUntil(lambda: self.names == expected, timeout=10_000)

    @property
    def names(self) -> list[str]:
        return [layer.name for layer in self.viewer.layers]


@pytest.fixture
def zoom_stage(
    make_napari_viewer_proxy: Callable[..., Any], qtbot: Any, slide_path: Path
) -> Iterator[ZoomStage]:
    here = ZoomStage(make_napari_viewer_proxy(), qtbot, slide_path)
    yield here
    here.source.coming.put(None)
    qtbot.waitUntil(lambda: not here.live.running, timeout=5000)


def test_layers_come_with_their_magnification_and_frames_stay_on_top(
    zoom_stage: ZoomStage,
) -> None:
    zoom_stage.show(make_snapshot(2, complete=False))
    zoom_stage.wait_for("attention · 8 µm/px", "attention · 2 µm/px", "opened tiles")
    zoom_stage.show(make_snapshot(3, complete=False))
    fine = "attention · 0.5 µm/px"
    zoom_stage.wait_for("attention · 8 µm/px", "attention · 2 µm/px", fine, "opened tiles")
    zoom_stage.qtbot.waitUntil(
        lambda: zoom_stage.viewer.layers.selection.active.name == "small", timeout=5000
    )
    assert np.isnan(zoom_stage.viewer.layers[f"s · {fine}"].data).all()
    with zoom_stage.qtbot.waitSignal(zoom_stage.live.finished):
        zoom_stage.source.coming.put(Finished(make_snapshot(), cancelled=False))
    assert np.isfinite(zoom_stage.viewer.layers[f"s · {fine}"].data[0]).all()
    assert len(zoom_stage.viewer.layers) == 5


def test_a_removed_magnification_stays_away(zoom_stage: ZoomStage) -> None:
    zoom_stage.show(make_snapshot(2, complete=False))
    zoom_stage.wait_for("attention · 8 µm/px", "attention · 2 µm/px", "opened tiles")
    zoom_stage.viewer.layers.remove("s · attention · 8 µm/px")
    zoom_stage.show(make_snapshot())
    zoom_stage.wait_for("attention · 2 µm/px", "attention · 0.5 µm/px", "opened tiles")
    assert not zoom_stage.source.cancelled


def test_layers_that_are_there_already_are_gone_on_with(
    zoom_stage: ZoomStage, make_napari_viewer_proxy: Callable[..., Any], qtbot: Any
) -> None:
    with qtbot.waitSignal(zoom_stage.live.finished):
        zoom_stage.source.coming.put(Finished(None, cancelled=True))
    source = Script()
    again = LiveRun(zoom_stage.viewer, source)
    again.start()
    source.coming.put(Planned(FACTS, make_snapshot(1, complete=False), (1500, 1900)))
    source.coming.put(Finished(make_snapshot(), cancelled=False))
    names = ["attention · 8 µm/px", "attention · 2 µm/px", "attention · 0.5 µm/px"]
    zoom_stage.wait_for(*names, "opened tiles")
    # Bars of several magnifications could not be told apart.
    assert not any(zoom_stage.viewer.layers[f"s · {name}"].colorbar.visible for name in names)
    source.coming.put(None)

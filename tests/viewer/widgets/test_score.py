"""The widget *Score slide*, in a real window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QRect, Qt

from napari_wsi_xai.viewer import drain
from napari_wsi_xai.viewer.checkpoints import CheckpointSummary
from napari_wsi_xai.viewer.reader import read_slide
from napari_wsi_xai.viewer.slide_layers import METADATA_KEY
from napari_wsi_xai.viewer.widgets.fields import BUNDLE, CHECKPOINT, PARTS
from napari_wsi_xai.viewer.widgets.form import EVERYTHING, VIEW
from napari_wsi_xai.viewer.widgets.score import ScoreSlide

TIMEOUT_MS = 30_000


class Bench:
    """A window with a slide and the widget, ready to score with a small model."""

    def __init__(self, viewer: Any, qtbot: Any, slide: Path, model: Path, folder: Path) -> None:
        from napari.layers import Layer

        self.viewer, self.qtbot = viewer, qtbot
        self.slide = viewer.add_layer(Layer.create(*read_slide(str(slide))[0]))
        self.widget = ScoreSlide(viewer)
        viewer.window.add_dock_widget(self.widget, name="Score slide")
        self.widget.model.kind.value = BUNDLE
        self.widget.model.bundle.value = model
        self.widget.more.folder.value = folder
        self.widget.more.precision.value = "float32"

    def press_score(self) -> Any:
        self.widget.score.native.click()
        return self.widget._live

    def score(self) -> Any:
        """Press Score and wait for the end; returns the last event."""
        self.widget.score.native.click()
        live = self.widget._live
        assert live is not None, self.widget.status.text()
        with self.qtbot.waitSignal(live.finished, timeout=TIMEOUT_MS) as blocker:
            pass
        return blocker.args[0]

    def map(self) -> Any:
        return next(one for one in self.viewer.layers if " · tile score" in one.name)


@pytest.fixture
def bench(
    make_napari_viewer_proxy: Callable[..., Any], qtbot: Any, model_path: Path, tmp_path: Path
) -> Callable[..., Bench]:
    def make(slide: Path) -> Bench:
        return Bench(make_napari_viewer_proxy(), qtbot, slide, model_path, tmp_path)

    return make


def test_a_slide_is_scored_from_button_to_final_maps(
    bench: Callable[..., Bench], slide_path: Path, finished: Any
) -> None:
    here = bench(slide_path)
    event = here.score()
    assert event.snapshot.complete
    names = [layer.name for layer in here.viewer.layers]
    assert names == ["small", "small · attention", "small · tile score", "small · top tiles"]
    np.testing.assert_array_equal(here.map().data, finished.maps["tile-scores/all"])
    about = here.map().metadata[METADATA_KEY]
    assert about["probabilities"] == finished.probabilities
    assert about["provisional"] is False
    assert "all 182 tissue tiles" in here.widget.result.text()
    assert here.widget.status.text().startswith("Done. Precision: float32")
    assert here.viewer.layers.selection.active.name == "small"
    assert here.map().colorbar.visible
    top = here.viewer.layers["small · top tiles"]
    best = np.unravel_index(np.nanargmax(finished.maps["tile-scores/all"]), (13, 16))
    assert (top.features["row"][1], top.features["column"][1]) == best
    assert here.widget.score.enabled
    assert not here.widget.cancel.enabled

    # Again: the finished result is loaded, and shown in the layers that are there.
    again = here.score()
    assert again.loaded
    assert len(here.viewer.layers) == 4
    assert "loaded" in here.widget.status.text()


def test_a_model_that_zooms_shows_what_it_opened_and_says_what_it_read(
    bench: Callable[..., Bench], slide_path: Path, zoom_model_path: Path, zoomed: Any
) -> None:
    here = bench(slide_path)
    here.widget.model.bundle.value = zoom_model_path
    live = here.press_score()
    said: list[str] = []
    live.stepped.connect(lambda _: said.append(here.widget.status.text()))
    with here.qtbot.waitSignal(live.finished, timeout=TIMEOUT_MS):
        pass
    assert any(text.startswith("4 µm/px: 0 of ") for text in said)
    names = [f"small · attention · {mpp} µm/px" for mpp in ("4", "1", "0.5")]
    expected = ["small", *names, "small · opened tiles"]
    here.qtbot.waitUntil(lambda: [one.name for one in here.viewer.layers] == expected)
    for name, level in zip(names, zoomed.levels, strict=True):
        np.testing.assert_array_equal(here.viewer.layers[name].data, level.maps["attention/all"])
    trace = zoomed.trace
    lines = here.widget.trace.text.splitlines()
    assert lines[0].startswith(f"Read {trace.read} of {trace.tiles:,} tiles")
    assert lines[1] == "Opened 3 tiles at 4 µm/px, 3 at 1 µm/px"
    assert lines[2].endswith("of the tissue at 0.5 µm/px was never read")
    assert "all 3 magnifications" in here.widget.result.text()
    # What is framed is no drawing of tissue.
    assert [choice for choice in here.widget.tissue.choices if not isinstance(choice, str)] == []


def test_an_authors_file_is_recognised_and_scored_from_the_button(
    bench: Callable[..., Bench], slide_path: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import save_file

    from napari_wsi_xai.models import build_encoder

    rng = np.random.default_rng(1)
    shapes = {"weight": (2, 24), "bias": (2,)}
    weights = {f"classifier.{n}": rng.normal(size=s).astype("f4") for n, s in shapes.items()}
    save_file(weights, tmp_path / "linear.safetensors")
    encoder = build_encoder("small-8-16-24").module.state_dict()
    save_file({n: t.numpy() for n, t in encoder.items()}, tmp_path / "encoder.safetensors")
    here = bench(slide_path)
    model = here.widget.model
    model.kind.value = CHECKPOINT
    with here.qtbot.waitSignal(model.checkpoint._examination.answered, timeout=TIMEOUT_MS):
        model.checkpoint.file.value = tmp_path / "linear.safetensors"
    assert "descriptors of 24 numbers · 2 classes" in model.checkpoint.found.value
    model.checkpoint.architecture.value = "max"
    model.encoder.value = "small-8-16-24"
    model.encoder_weights.value = tmp_path / "encoder.safetensors"
    model.tile_px.value = 112
    assert here.score().snapshot.complete
    about = here.map().metadata[METADATA_KEY]
    assert about["model"] == "linear-small-8-16-24"
    assert about["probabilities"].keys() == {"normal", "tumor"}


def test_cancel_ends_the_run_and_score_goes_on(
    bench: Callable[..., Bench], slide_path: Path
) -> None:
    here = bench(slide_path)
    live = here.press_score()
    assert not here.widget.score.enabled
    assert here.widget.cancel.enabled
    live.preparing.connect(lambda _: here.widget.cancel.native.click())
    with here.qtbot.waitSignal(live.finished, timeout=TIMEOUT_MS) as blocker:
        pass
    assert blocker.args[0].cancelled
    assert "Cancelled" in here.widget.status.text()
    assert here.widget.score.enabled
    assert here.score().snapshot.complete


def test_mpp_is_asked_for_only_where_it_is_missing(
    bench: Callable[..., Bench], slide_path: Path, no_mpp_path: Path
) -> None:
    assert not bench(slide_path).widget.asks_for_mpp
    here = bench(no_mpp_path)
    assert here.widget.asks_for_mpp
    here.widget.score.native.click()
    assert "does not say its micrometres per pixel" in here.widget.status.text()
    assert here.widget._live is None
    here.widget.mpp.value = 0.5
    assert here.score().snapshot.complete
    assert not here.widget.asks_for_mpp
    np.testing.assert_allclose(here.slide.scale, 0.5)
    np.testing.assert_allclose(here.map().scale, 56)


def test_errors_are_one_sentence_in_the_widget(
    bench: Callable[..., Bench], slide_path: Path, tmp_path: Path
) -> None:
    here = bench(slide_path)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no model")
    here.widget.model.bundle.value = broken
    live = here.press_score()
    with here.qtbot.waitSignal(live.failed, timeout=TIMEOUT_MS):
        pass
    text = here.widget.status.text()
    assert "broken.safetensors" in text
    assert "\n" not in text
    assert here.widget.score.enabled
    here.widget.model.bundle.line_edit.value = ""
    live = here.press_score()
    with here.qtbot.waitSignal(live.failed, timeout=TIMEOUT_MS):
        pass
    assert "No model was chosen" in here.widget.status.text()


def test_what_is_in_view_is_scored_first(
    bench: Callable[..., Bench], slide_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = bench(slide_path)
    camera = here.viewer.scene.camera
    # Level-0 (1200, 1500), in the last block of the four, fills the window.
    camera.center, camera.zoom = (0, 600.0, 750.0), 20.0
    here.qtbot.wait(50)
    inputs = here.widget.inputs()
    view = inputs.view
    assert view is not None
    assert view.y < 1200 < view.y + view.height
    assert view.x < 1500 < view.x + view.width
    assert view.height < 300
    live = here.press_score()
    partial = []
    live.stepped.connect(lambda event: partial.append(event.snapshot))
    with here.qtbot.waitSignal(live.finished, timeout=TIMEOUT_MS):
        pass
    first = next(snapshot for snapshot in partial if snapshot is not None)
    done = np.isfinite(first.maps["tile-scores/all"])
    assert done[10, 13]
    assert not done.all()


def test_current_view_scores_the_blocks_in_view_only(
    bench: Callable[..., Bench], slide_path: Path
) -> None:
    here = bench(slide_path)
    camera = here.viewer.scene.camera
    camera.center, camera.zoom = (0, 600.0, 750.0), 20.0
    here.widget.region.value = VIEW
    snapshot = here.score().snapshot
    assert not snapshot.complete
    done = np.argwhere(np.isfinite(snapshot.maps["tile-scores/all"]))
    assert done.min() >= 8
    assert "provisional" in here.widget.result.text()


def test_drawn_shapes_can_be_the_tissue(bench: Callable[..., Bench], slide_path: Path) -> None:
    here = bench(slide_path)
    corners = (np.array([(112, 224), (112, 672), (560, 672), (560, 224)]) - 0.5) * 0.5
    shapes = here.viewer.add_shapes([corners], shape_type="polygon", name="lesion")
    assert here.widget.slide.value.name == "small"
    choices = list(here.widget.tissue.choices)
    here.widget.tissue.value = next(c for c in choices if not isinstance(c, str))
    snapshot = here.score().snapshot
    done = np.argwhere(np.isfinite(snapshot.maps["tile-scores/all"]))
    assert (done.min(axis=0).tolist(), done.max(axis=0).tolist()) == ([1, 2], [4, 5])
    assert shapes.name == "lesion"


def test_fields_become_inputs(bench: Callable[..., Bench], slide_path: Path) -> None:
    here = bench(slide_path)
    widget = here.widget
    widget.model.kind.value = PARTS
    widget.model.encoder.value = " resnet18 "
    widget.model.head.value = "max"
    widget.model.classes.value = "benign, , tumour"
    widget.tissue.value = EVERYTHING
    widget.more.device.value = ""
    inputs = widget.inputs()
    assert inputs.model.encoder == "resnet18"
    assert inputs.model.encoder_weights == "DEFAULT"
    assert inputs.model.head == "max"
    assert inputs.model.classes == ("benign", "tumour")
    assert inputs.tissue.options.method == "none"
    assert inputs.device == "auto"
    assert inputs.region is None


def test_every_control_says_what_it_means(bench: Callable[..., Bench], slide_path: Path) -> None:
    widget = bench(slide_path).widget
    fields = [widget.slide, widget.mpp, widget.tissue, widget.region, widget.score, widget.cancel]
    fields += [widget.progress, widget.model.kind, widget.model.bundle, widget.model.encoder]
    fields += [widget.more.min_tissue, widget.more.precision, widget.more.device]
    assert all(field.tooltip for field in fields)
    assert widget.status.toolTip()
    assert widget.result.toolTip()


def test_it_fits_a_laptop_screen(bench: Callable[..., Bench], slide_path: Path) -> None:
    widget = bench(slide_path).widget
    widget.model.kind.value = PARTS
    widget.more.visible = True
    assert widget.native.sizeHint().height() < 700


def test_sentences_are_shown_with_all_their_lines_and_no_more_room(
    bench: Callable[..., Bench], slide_path: Path
) -> None:
    here = bench(slide_path)
    here.viewer.window.show()
    checkpoint = here.widget.model.checkpoint
    here.widget.model.kind.value = CHECKPOINT
    label = checkpoint.found.native
    heights = []
    for words in ("descriptor " * 24, "a", "descriptor " * 9):
        checkpoint._answered(CheckpointSummary(words, ("dtfd",), 1024, 2))
        here.qtbot.wait(150)
        needed = label.fontMetrics().boundingRect(
            QRect(0, 0, label.width(), 10_000), Qt.TextFlag.TextWordWrap, label.text()
        )
        heights.append(label.height())
        spare = label.height() - needed.height()
        assert 0 <= spare <= label.fontMetrics().lineSpacing()
    assert heights[1] < heights[2] < heights[0]


def test_without_a_slide_it_says_how_to_begin(
    make_napari_viewer_proxy: Callable[..., Any], slide_path: Path
) -> None:
    from napari.layers import Layer

    viewer = make_napari_viewer_proxy()
    widget = ScoreSlide(viewer)
    assert not widget.score.enabled
    assert "Open a slide" in widget.status.text()
    viewer.add_image(np.zeros((9, 9)))
    assert not widget.score.enabled
    viewer.add_layer(Layer.create(*read_slide(str(slide_path))[0]))
    assert widget.score.enabled
    widget.native.close()


def test_removing_the_slide_ends_the_run(bench: Callable[..., Bench], slide_path: Path) -> None:
    here = bench(slide_path)
    live = here.press_score()
    live.planned.connect(lambda _: here.viewer.layers.remove("small"))
    with here.qtbot.waitSignal(live.finished, timeout=TIMEOUT_MS) as blocker:
        pass
    assert blocker.args[0].cancelled


def test_a_closed_widget_hears_no_more_of_layers(
    bench: Callable[..., Bench], slide_path: Path
) -> None:
    here = bench(slide_path)
    with here.qtbot.waitSignal(here.widget.native.destroyed):
        here.widget.native.deleteLater()
    here.viewer.add_points([[1, 1]])
    here.viewer.layers.selection.active = here.slide


def test_closing_the_window_ends_the_run_at_once(
    bench: Callable[..., Bench], slide_path: Path
) -> None:
    here = bench(slide_path)
    live = here.press_score()
    with here.qtbot.waitSignal(live.planned, timeout=TIMEOUT_MS):
        pass
    process = live._source._process
    here.viewer.close()
    here.qtbot.waitUntil(lambda: not process.alive, timeout=5000)


def test_the_worker_tells_of_progress_at_a_bearable_rate() -> None:
    assert drain.STEPS_EVERY_S >= 0.1
    assert drain.MAPS_EVERY_S >= 0.5

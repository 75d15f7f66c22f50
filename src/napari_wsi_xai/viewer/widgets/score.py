"""The widget *Score slide*: choose slide and model, press Score, watch the tiles light up."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from napari_wsi_xai.errors import WsiXaiError
from napari_wsi_xai.viewer.background import compile_labels
from napari_wsi_xai.viewer.live import LiveRun
from napari_wsi_xai.viewer.process import ProcessRun, start_process
from napari_wsi_xai.viewer.slide_layers import is_slide_layer, state_mpp
from napari_wsi_xai.viewer.widgets.form import ScoreForm
from napari_wsi_xai.viewer.widgets.wording import (
    note_text,
    progress_text,
    result_html,
    trace_lines,
)
from napari_wsi_xai.viewer.zoom_snapshot import ZoomSnapshot

if TYPE_CHECKING:
    import napari.viewer

    from napari_wsi_xai.viewer.drain import Failed, Finished, Planned, Stepped
    from napari_wsi_xai.viewer.states import AnySnapshot

__all__ = ["ScoreSlide"]

ACCENT, QUIET, ALARM = "#d9722e", "#6f8296", "#ff9f6b"


class ScoreSlide(ScoreForm):
    """Score the tiles of a slide with a multiple-instance model.

    Parameters
    ----------
    napari_viewer
        The viewer that shows the slide and receives the maps.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        self._live: LiveRun | None = None
        self._listening: list[tuple[Any, Any]] = []
        super().__init__(napari_viewer)
        self._connect()
        self._refresh_choices()
        self._set_running(False)
        compile_labels()
        start_process()

    def _connect(self) -> None:
        self.score.clicked.connect(self.start)
        self.cancel.clicked.connect(self.stop)
        self.slide.changed.connect(self._slide_changed)
        layers = self._viewer.layers
        self._listening = [
            (layers.events.inserted, self._refresh_choices),
            (layers.events.removed, self._refresh_choices),
            (layers.events.reordered, self._refresh_choices),
            (layers.selection.events.active, self._selection_changed),
        ]
        for event, callback in self._listening:
            event.connect(callback)
        # Not a method of self: the widget is half gone by the time Qt sends this.
        self.native.destroyed.connect(partial(_abandon, self.__dict__))

    def _refresh_choices(self, event: Any = None) -> None:
        for field in (self.slide, self.tissue, self.region):
            field.reset_choices()
        self._slide_changed()

    def _selection_changed(self, event: Any = None) -> None:
        """The selected layer is the slide people mean, unless they are drawing on it."""
        layer = self._viewer.layers.selection.active
        if layer is not None and is_slide_layer(layer) and layer in self.slide.choices:
            self.slide.value = layer

    def _slide_changed(self, event: Any = None) -> None:
        reference = self.reference
        self._ask_for_mpp(bool(reference and reference.known and reference.mpp is None))
        self.score.enabled = reference is not None and not self.running
        if reference is None and not self.running:
            self._say("Open a slide to begin: File, Open, or drop it on the window.")
        elif self._live is None:
            self._say("")

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self._live is not None and self._live.running

    # -- running ---------------------------------------------------------------------------

    def start(self) -> None:
        """Score the chosen slide (the button)."""
        if self.running:
            return
        self.result.clear()
        self.trace.show_sentences(())
        try:
            if self.asks_for_mpp and self.mpp.value > 0:
                mpp = (self.mpp.value, self.mpp.value)
                state_mpp(self._viewer, self.slide.value, mpp)
                self._slide_changed()
            inputs = self.inputs()
        except WsiXaiError as error:
            self._complain(str(error))
            return
        self._live = LiveRun(self._viewer, ProcessRun(inputs))
        self._live.preparing.connect(self._preparing)
        self._live.planned.connect(self._planned)
        self._live.stepped.connect(self._stepped)
        self._live.finished.connect(self._finished)
        self._live.failed.connect(self._failed)
        self._set_running(True)
        self._live.start()

    def stop(self) -> None:
        """Cancel the run (the button)."""
        if self._live is not None and self.running:
            self._say("Stopping after the tiles under way …")
            self.cancel.enabled = False
            self._live.cancel()

    def _set_running(self, running: bool) -> None:
        self.score.enabled = not running and self.reference is not None
        self.cancel.enabled = running
        self.progress.visible = running
        for field in (self.slide, self.mpp, self.model, self.tissue, self.region, self.more):
            field.enabled = not running

    def _preparing(self, message: str) -> None:
        self.progress.native.setRange(0, 0)
        self._say(f"{message} …")

    def _planned(self, event: Planned) -> None:
        self.progress.native.setRange(0, 1000)
        self._show_result(event.snapshot)

    def _stepped(self, event: Stepped) -> None:
        progress = event.progress
        self.progress.native.setValue(round(1000 * progress.tiles_done / progress.tiles_total))
        if self.cancel.enabled:
            self._say(progress_text(progress, event.where))
        if event.snapshot is not None:
            self._show_result(event.snapshot)

    def _finished(self, event: Finished) -> None:
        self._set_running(False)
        self._say(note_text(event.loaded, event.cancelled, event.note))
        if event.snapshot is not None:
            self._show_result(event.snapshot)

    def _failed(self, event: Failed) -> None:
        self._set_running(False)
        if event.missing_mpp:
            self._ask_for_mpp(True)
        self._complain(event.message)

    def _show_result(self, snapshot: AnySnapshot) -> None:
        if snapshot.probabilities:
            self.result.setText(result_html(snapshot, ACCENT, QUIET))
        if isinstance(snapshot, ZoomSnapshot):
            self.trace.show_sentences(trace_lines(snapshot))

    def _say(self, message: str) -> None:
        self.status.setStyleSheet("")
        self.status.setText(message)

    def _complain(self, message: str) -> None:
        from napari.utils.notifications import show_warning

        self.status.setStyleSheet(f"color: {ALARM}")
        self.status.setText(message[:1].upper() + message[1:])
        show_warning(message)


def _abandon(state: dict[str, Any], *_: Any) -> None:
    """Stop the run of a widget that is being deleted, and what the viewer would tell it."""
    for event, callback in state.get("_listening", ()):
        event.disconnect(callback)
    live = state.get("_live")
    if live is not None:
        live.abandon()

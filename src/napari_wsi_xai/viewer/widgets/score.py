"""The widget *Score slide*: choose slide and model, press Score, watch the tiles light up."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox, Container, FloatSpinBox, ProgressBar, PushButton
from napari.layers import Labels, Shapes
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QSizePolicy

from ...errors import BadArgumentError, WsiXaiError
from ...geometry import Region
from ...tiles import TissueOptions
from ..background import compile_labels
from ..drawings import labels_drawing, outlines
from ..live import LiveRun
from ..process import ProcessRun, start_process
from ..scoring import ScoreInputs, TissueChoice
from ..settings import cache_folder
from ..slide_layers import (
    Placement,
    SlideReference,
    is_slide_layer,
    placement_on,
    reference_of_layer,
    state_mpp,
)
from ..view import visible_region
from .fields import ModelFields, MoreFields, row
from .wording import note_text, progress_text, result_html

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image, Layer
    from shapely.geometry.base import BaseGeometry

    from ..drain import Failed, Finished, Planned, Stepped
    from ..snapshot import Snapshot

__all__ = ["ScoreSlide"]

AUTOMATIC, EVERYTHING = "Automatic", "Every tile"
WHOLE, VIEW = "Whole slide", "Current view"
ACCENT, QUIET, ALARM = "#d9722e", "#6f8296", "#ff9f6b"


class ScoreSlide(Container[Any]):
    """Score the tiles of a slide with a multiple-instance model.

    Parameters
    ----------
    napari_viewer
        The viewer that shows the slide and receives the maps.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        self._viewer = napari_viewer
        self._live: LiveRun | None = None
        self.asks_for_mpp = False
        self._shows_more = False
        self._make_fields()
        self._make_output()
        self.mpp_row = row(self.mpp)
        super().__init__(
            widgets=[
                *(row(self.slide), self.mpp_row, self.model, row(self.tissue), row(self.region)),
                *(self.more_button, self.more, self.buttons, self.progress),
            ],
            labels=False,
        )
        self.name = "Score slide"
        for label in (self.status, self.result):
            self.native.layout().addWidget(label)
        self.native.layout().addStretch(1)
        self.native.setMinimumWidth(330)
        self._connect()
        self._refresh_choices()
        self._set_running(False)
        self.model.show_fields()
        compile_labels()
        start_process()

    # -- building --------------------------------------------------------------------------

    def _make_fields(self) -> None:
        self.slide = ComboBox(
            label="Slide",
            choices=self._slide_choices,
            tooltip="The slide to score: any layer that was opened from a whole-slide image.",
        )
        self.mpp = FloatSpinBox(
            label="Micrometres per pixel",
            value=0.0,
            min=0.0,
            max=50.0,
            step=0.01,
            tooltip="Edge of a pixel of the full-resolution slide in micrometres, which this file "
            "does not say: about 0.25 for a 40x scan, 0.5 for 20x.",
        )
        self.mpp.native.setDecimals(4)
        self.model = ModelFields()
        self.tissue = ComboBox(
            label="Tissue",
            choices=self._tissue_choices,
            tooltip="Which tiles count. Automatic: stained tissue, without glass and pen marks.\n"
            "Every tile: no detection. Or what is drawn in a Labels or Shapes layer.",
        )
        self.region = ComboBox(
            label="Region",
            choices=self._region_choices,
            tooltip="Where to score now: the whole slide, what the window shows, or the selected "
            "shapes of a layer.\nThe rest can be scored later into the same result.",
        )
        self.more_button = PushButton(text="▸ More options", tooltip="Tissue, device, files")
        self.more = MoreFields()
        self.more.visible = False

    def _make_output(self) -> None:
        self.score = PushButton(
            text="Score", tooltip="Score the slide; what the window shows comes first."
        )
        self.cancel = PushButton(
            text="Cancel", tooltip="Stop after the tiles under way; what is done is kept."
        )
        self.buttons = Container(
            widgets=[self.score, self.cancel], layout="horizontal", labels=False
        )
        self.buttons.margins = (0, 0, 0, 0)
        self.progress = ProgressBar(
            value=0, max=1000, label="", tooltip="Share of the tissue tiles that are scored."
        )
        self.status, self.result = _text(), _text()
        self.result.setTextFormat(Qt.TextFormat.RichText)
        self.status.setToolTip(
            "Tiles scored of those that hold tissue · tiles per second, and the share of the "
            "work that is reading pixels rather than running the network · time left."
        )
        self.result.setToolTip(
            "What the model says of the slide as a whole, in per cent.\nProvisional while "
            "tiles are missing: the number may still change."
        )

    def _connect(self) -> None:
        self.score.clicked.connect(self.start)
        self.cancel.clicked.connect(self.stop)
        self.more_button.clicked.connect(self._toggle_more)
        self.slide.changed.connect(self._slide_changed)
        layers = self._viewer.layers.events
        for event in (layers.inserted, layers.removed, layers.reordered):
            event.connect(self._refresh_choices)
        self._viewer.layers.selection.events.active.connect(self._selection_changed)
        # A lambda without self: the widget is half gone by the time Qt sends this.
        self.native.destroyed.connect(partial(_abandon, self.__dict__))

    # -- choices ---------------------------------------------------------------------------

    def _slide_choices(self, _: Any = None) -> list[tuple[str, Image]]:
        return [(layer.name, layer) for layer in self._viewer.layers if is_slide_layer(layer)]

    def _tissue_choices(self, _: Any = None) -> list[tuple[str, Any]]:
        drawn = [layer for layer in self._viewer.layers if self._is_drawing(layer)]
        fixed = [(AUTOMATIC, AUTOMATIC), (EVERYTHING, EVERYTHING)]
        return [*fixed, *((f"Drawn: {layer.name}", layer) for layer in drawn)]

    def _region_choices(self, _: Any = None) -> list[tuple[str, Any]]:
        drawn = [layer for layer in self._viewer.layers if isinstance(layer, Shapes)]
        fixed = [(WHOLE, WHOLE), (VIEW, VIEW)]
        return [*fixed, *((f"Selected shapes: {layer.name}", layer) for layer in drawn)]

    def _is_drawing(self, layer: Layer) -> bool:
        """A Labels or Shapes layer that is not one of this plugin's own results."""
        own = layer.metadata.get("napari_wsi_xai", {}).get("kind") == "top tiles"
        return isinstance(layer, Labels | Shapes) and not own

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

    def _ask_for_mpp(self, missing: bool) -> None:
        # Not read back from the row: a widget in a hidden dock is invisible whatever it asks.
        self.asks_for_mpp = missing
        self.mpp_row.visible = missing

    @property
    def reference(self) -> SlideReference | None:
        """The chosen slide."""
        layer = self.slide.value
        return None if layer is None else reference_of_layer(layer)

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self._live is not None and self._live.running

    # -- inputs ----------------------------------------------------------------------------

    def inputs(self) -> ScoreInputs:
        """What the user chose, free of widgets and layers.

        Raises
        ------
        BadArgumentError
            Something is missing or does not fit; the message says what.
        """
        reference = self.reference
        if reference is None:
            raise BadArgumentError("no slide is chosen: open one first.")
        stated = self.mpp.value if self.asks_for_mpp and self.mpp.value > 0 else None
        if stated is None and self.asks_for_mpp:
            raise BadArgumentError(
                f"{reference.name} does not say its micrometres per pixel: state them in the "
                'field "Micrometres per pixel" above.'
            )
        placement = self._placement(reference, stated)
        return ScoreInputs(
            source=reference.source,
            name=reference.name,
            mpp=stated or (reference.mpp if reference.mpp_stated else None),
            model=self.model.choice(),
            tissue=self._tissue_choice(placement),
            region=self._chosen_region(placement),
            precision=self.more.precision.value,
            device=self.more.device.value.strip() or "auto",
            folder=self.more.chosen_folder,
            cache=cache_folder() / "results",
            view=self._in_view(placement),
        )

    def _placement(self, reference: SlideReference, stated: float | None) -> Placement:
        mpp = reference.mpp or ((stated, stated) if stated else (1.0, 1.0))
        return placement_on(self.slide.value, mpp)

    def _tissue_choice(self, placement: Placement) -> TissueChoice:
        chosen = self.tissue.value
        fraction = self.more.min_tissue.value / 100
        if chosen == EVERYTHING:
            return TissueChoice(TissueOptions(method="none", min_fraction=0.0))
        options = TissueOptions(min_fraction=fraction)
        if isinstance(chosen, Labels):
            return TissueChoice(options, labels=labels_drawing(chosen, placement))
        if isinstance(chosen, Shapes):
            return TissueChoice(options, polygons=outlines(chosen, placement))
        return TissueChoice(options)

    def _chosen_region(self, placement: Placement) -> Region | tuple[BaseGeometry, ...] | None:
        chosen = self.region.value
        if chosen == VIEW:
            view = self._in_view(placement)
            if view is None:
                raise BadArgumentError("the window shows nothing of the slide: move it into view.")
            return view
        if isinstance(chosen, Shapes):
            return outlines(chosen, placement, selected_only=True)
        return None

    def _in_view(self, placement: Placement) -> Region | None:
        levels = self.slide.value.data
        first = levels[0] if self.slide.value.multiscale else levels
        return visible_region(self._viewer, placement, (first.shape[0], first.shape[1]))

    # -- running ---------------------------------------------------------------------------

    def start(self) -> None:
        """Score the chosen slide (the button)."""
        if self.running:
            return
        self.result.clear()
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
            self._say(progress_text(progress))
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

    def _show_result(self, snapshot: Snapshot) -> None:
        if snapshot.probabilities:
            self.result.setText(result_html(snapshot, ACCENT, QUIET))

    def _say(self, message: str) -> None:
        self.status.setStyleSheet("")
        self.status.setText(message)

    def _complain(self, message: str) -> None:
        from napari.utils.notifications import show_warning

        self.status.setStyleSheet(f"color: {ALARM}")
        self.status.setText(message[:1].upper() + message[1:])
        show_warning(message)

    def _toggle_more(self) -> None:
        self._shows_more = not self._shows_more
        self.more.visible = self._shows_more
        self.more_button.text = "▾ Fewer options" if self._shows_more else "▸ More options"


def _text() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    # A long sentence wraps; it must not widen the dock.
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


def _abandon(state: dict[str, Any], *_: Any) -> None:
    """Stop the run of a widget that is being deleted."""
    live = state.get("_live")
    if live is not None:
        live.abandon()

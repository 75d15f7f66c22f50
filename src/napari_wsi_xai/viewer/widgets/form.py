"""The form of the widget *Score slide*: its fields, what they offer, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox, Container, FloatSpinBox, ProgressBar, PushButton
from napari.layers import Labels, Shapes
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.geometry import Region
from napari_wsi_xai.tiles import TissueOptions
from napari_wsi_xai.viewer.drawings import labels_drawing, outlines
from napari_wsi_xai.viewer.pictures import FRAME_KINDS
from napari_wsi_xai.viewer.scoring import ScoreInputs, TissueChoice
from napari_wsi_xai.viewer.settings import cache_folder
from napari_wsi_xai.viewer.slide_layers import (
    METADATA_KEY,
    Placement,
    SlideReference,
    is_slide_layer,
    placement_on,
    reference_of_layer,
)
from napari_wsi_xai.viewer.view import visible_region
from napari_wsi_xai.viewer.widgets.fields import ModelFields
from napari_wsi_xai.viewer.widgets.more import MoreFields
from napari_wsi_xai.viewer.widgets.rows import row, wrap
from napari_wsi_xai.viewer.widgets.trace import Sentences

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image, Layer
    from shapely.geometry.base import BaseGeometry

__all__ = ["AUTOMATIC", "EVERYTHING", "VIEW", "WHOLE", "ScoreForm"]

AUTOMATIC, EVERYTHING = "Automatic", "Every tile"
WHOLE, VIEW = "Whole slide", "Current view"


class ScoreForm(Container[Any]):
    """Fields for slide, model, tissue and region, buttons, and room for progress and result.

    Parameters
    ----------
    viewer
        Its layers are what the fields offer.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._viewer = viewer
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
        for label in (self.status, self.result, self.trace):
            self.native.layout().addWidget(label)
        self.native.layout().addStretch(1)
        self.native.setMinimumWidth(330)
        self.model.show_fields()
        self.more_button.clicked.connect(self._toggle_more)

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
        self.status, self.result, self.trace = _text(), _text(), Sentences()
        self.result.setTextFormat(Qt.TextFormat.RichText)
        self.status.setToolTip(
            "Tiles scored of those that are to be scored (models that zoom: at the magnification "
            "at hand) · tiles per second, and the share of the "
            "work that is reading pixels rather than running the network · time left."
        )
        self.result.setToolTip(
            "What the model says of the slide as a whole, in per cent.\nProvisional while "
            "tiles are missing: the number may still change."
        )

    def _toggle_more(self) -> None:
        self._shows_more = not self._shows_more
        self.more.visible = self._shows_more
        self.more_button.text = "▾ Fewer options" if self._shows_more else "▸ More options"

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
        own = layer.metadata.get(METADATA_KEY, {}).get("kind") in FRAME_KINDS
        return isinstance(layer, Labels | Shapes) and not own

    def _ask_for_mpp(self, missing: bool) -> None:
        # Not read back from the row: a widget in a hidden dock is invisible whatever it asks.
        self.asks_for_mpp = missing
        self.mpp_row.visible = missing

    @property
    def reference(self) -> SlideReference | None:
        """The chosen slide."""
        layer = self.slide.value
        return None if layer is None else reference_of_layer(layer)

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


def _text() -> QLabel:
    label = QLabel()
    wrap(label)
    return label

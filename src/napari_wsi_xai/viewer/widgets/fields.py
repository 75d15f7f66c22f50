"""The fields of the widget *Score slide*, each with its meaning and unit as hover text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import (
    ComboBox,
    Container,
    FileEdit,
    FloatSpinBox,
    Label,
    LineEdit,
    SpinBox,
)

from napari_wsi_xai.tiles import TissueOptions
from napari_wsi_xai.viewer.scoring import ModelChoice
from napari_wsi_xai.viewer.settings import read_settings

if TYPE_CHECKING:
    from magicgui.widgets.bases import Widget

__all__ = ["ENCODERS", "HEADS", "ModelFields", "MoreFields", "row"]

ENCODERS = (
    "resnet50",
    "resnet18",
    "resnet34",
    "densenet121",
    "inception_v3",
    "squeezenet1_1",
    "hf-hub:owner/name",
)
"""Suggestions; any torchvision or timm name is taken."""

HEADS = ("abmil", "abmil-gated", "chowder", "mean", "max")
"""MIL architectures; written out here because asking the models' room would load torch."""

LABEL_PX = 138
"""Width of the labels, so that fields stand in one column."""

DEMO, BUNDLE, PARTS = "Demo model", "Model bundle", "Encoder + head"


def row(field: Widget) -> Container[Any]:
    """A field with its label before it; hovering the label tells what hovering the field tells."""
    label = Label(value=field.label, tooltip=field.tooltip)
    label.min_width = label.max_width = LABEL_PX
    line: Container[Any] = Container(widgets=[label, field], layout="horizontal", labels=False)
    line.margins = (0, 0, 0, 0)
    return line


class ModelFields(Container[Any]):
    """Which model: the shipped one, a bundle, or an encoder and a head by name."""

    def __init__(self) -> None:
        self._make_choice()
        self._make_networks()
        self._make_meaning()
        parts = (
            *(self.encoder, self.encoder_weights, self.head, self.head_weights),
            *(self.classes, self.tile_px, self.mpp),
        )
        self._parts = [row(field) for field in parts]
        self._bundle = row(self.bundle)
        super().__init__(widgets=[row(self.kind), self._bundle, *self._parts], labels=False)
        self.margins = (0, 0, 0, 0)
        self.kind.changed.connect(self._show_fields)
        self._complete_names()

    def _make_choice(self) -> None:
        self.kind = ComboBox(
            label="Model",
            choices=[DEMO, BUNDLE, PARTS],
            tooltip="Demo model: small, shipped with the plugin, for H&E-like demo slides only.\n"
            "Model bundle: encoder, head, tile size and class names in one file or folder.\n"
            "Encoder + head: put together by name here.",
        )
        self.bundle = FileEdit(
            label="Bundle",
            mode="r",
            filter="Model bundle (*.safetensors model.json);;All files (*)",
            nullable=True,
            tooltip="A bundle: one .safetensors file, or the model.json inside its folder.",
        )

    def _make_networks(self) -> None:
        self.encoder = LineEdit(
            label="Encoder",
            value="resnet50",
            tooltip="Network that describes a tile by numbers: a torchvision name such as "
            "resnet50 or densenet121, or a timm or hf-hub: name (extra 'foundation').",
        )
        self.encoder_weights = FileEdit(
            label="Encoder weights",
            nullable=True,
            tooltip="State-dict file of the encoder (.pth, .safetensors). Empty: the weights that "
            "the network's library publishes.",
        )
        self.head = ComboBox(
            label="Head",
            choices=HEADS,
            tooltip="Multiple-instance head that turns tile descriptors into tile scores and a "
            "slide probability.",
        )
        self.head_weights = FileEdit(
            label="Head weights",
            nullable=True,
            tooltip="State-dict file of the head. Empty: random weights, so that all scores are "
            "meaningless; good for trying things out only.",
        )

    def _make_meaning(self) -> None:
        self.classes = LineEdit(
            label="Classes",
            value="normal, tumor",
            tooltip="Names of the head's classes, in the order of its outputs, with commas "
            "between them.",
        )
        self.tile_px = SpinBox(
            label="Tile (px)", value=224, min=32, max=2048, tooltip="Edge of a tile in pixels."
        )
        self.mpp = FloatSpinBox(
            label="Tile µm per px",
            value=0.5,
            min=0.05,
            max=20,
            step=0.05,
            tooltip="Micrometres per pixel at which the network sees tiles: 0.5 is about 20x, "
            "0.25 about 40x.",
        )

    def show_fields(self) -> None:
        """Show the fields of the chosen kind of model only."""
        self._show_fields(self.kind.value)

    def _show_fields(self, kind: str) -> None:
        self._bundle.visible = kind == BUNDLE
        for part in self._parts:
            part.visible = kind == PARTS

    def _complete_names(self) -> None:
        from qtpy.QtWidgets import QCompleter

        self.encoder.native.setCompleter(QCompleter(list(ENCODERS)))

    def choice(self) -> ModelChoice:
        """What is chosen."""
        if self.kind.value == DEMO:
            return ModelChoice("demo")
        if self.kind.value == BUNDLE:
            return ModelChoice("bundle", path=_bundle(_path(self.bundle)))
        weights = _path(self.encoder_weights)
        return ModelChoice(
            "parts",
            encoder=self.encoder.value.strip(),
            encoder_weights="DEFAULT" if weights is None else str(weights),
            head=self.head.value,
            head_weights=_path(self.head_weights),
            classes=tuple(name.strip() for name in self.classes.value.split(",") if name.strip()),
            tile_px=self.tile_px.value,
            mpp=self.mpp.value,
        )


class MoreFields(Container[Any]):
    """What most people leave as it is."""

    def __init__(self) -> None:
        settings = read_settings()
        self.min_tissue = SpinBox(
            label="Minimum tissue (%)",
            value=round(TissueOptions().min_fraction * 100),
            min=0,
            max=100,
            tooltip="A tile is scored if at least this share of its area is tissue, in per cent.",
        )
        self.precision = ComboBox(
            label="Precision",
            choices=["auto", "float32", "bfloat16", "float16"],
            value=settings.precision,
            tooltip="Number format of the encoder. auto takes a faster one only where it checks "
            "that the numbers stay the same (cosine of at least 0.999 with float32).",
        )
        self.device = LineEdit(
            label="Device",
            value=settings.device,
            tooltip="auto, cpu, cuda, cuda:1 or mps: where the encoder runs. auto takes a "
            "graphics card if there is one.",
        )
        self.folder = FileEdit(
            label="Results folder",
            mode="d",
            nullable=True,
            tooltip="Where the result (<slide>.wsixai.zarr) is kept. Empty: beside the slide, or "
            "in the cache folder where that cannot be written.",
        )
        fields = (self.min_tissue, self.precision, self.device, self.folder)
        super().__init__(widgets=[row(field) for field in fields], labels=False)
        self.margins = (0, 0, 0, 0)

    @property
    def chosen_folder(self) -> Path | None:
        """The results folder, or None where none is chosen."""
        return _path(self.folder)


def _path(edit: FileEdit) -> Path | None:
    """Path in a file field; None where it is empty."""
    text = edit.line_edit.value.strip()
    return Path(text).expanduser() if text else None


def _bundle(path: Path | None) -> Path | None:
    """The bundle's folder where its ``model.json`` was picked."""
    return path.parent if path is not None and path.name == "model.json" else path

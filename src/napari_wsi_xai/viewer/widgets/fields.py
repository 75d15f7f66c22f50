"""The fields that say which model, each with its meaning and unit as hover text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magicgui.widgets import ComboBox, Container, FileEdit, LineEdit, SpinBox

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.viewer.checkpoints import (
    default_classes,
    default_mpps,
    encoder_hint,
    read_mpps,
)
from napari_wsi_xai.viewer.head_options import ARCHITECTURE_NAMES, HEADS, OVER_MAGNIFICATIONS
from napari_wsi_xai.viewer.model_choice import ModelChoice
from napari_wsi_xai.viewer.widgets.checkpoint import CheckpointFields
from napari_wsi_xai.viewer.widgets.options import OptionFields
from napari_wsi_xai.viewer.widgets.rows import note, path_in, row

__all__ = ["BUNDLE", "CHECKPOINT", "DEMO", "ENCODERS", "HEADS", "PARTS", "ModelFields"]

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

DEMO, BUNDLE, PARTS = "Demo model", "Model bundle", "Encoder + head"
CHECKPOINT = "Checkpoint"

SEVERAL = 3
"""Magnifications suggested where neither file nor name tells their number."""


class ModelFields(Container[Any]):
    """Which model: the shipped one, a bundle, an encoder and a head, or an author's file."""

    def __init__(self) -> None:
        self._make_choice()
        self._make_networks()
        self._make_meaning()
        self.checkpoint = CheckpointFields(self._checkpoint_told)
        self.head_options = OptionFields()
        self.hint = note("Encoder and head fit if the one gives what the other takes.")
        self._bundle = row(self.bundle)
        self._encoder = [row(self.encoder), self.hint, row(self.encoder_weights)]
        self._head = [row(self.head), row(self.head_weights)]
        self._tiles = [row(self.classes), row(self.tile_px), row(self.mpp)]
        super().__init__(
            widgets=[
                *(row(self.kind), self._bundle, self.checkpoint, *self._encoder, *self._head),
                *(*self._tiles, self.head_options),
            ],
            labels=False,
        )
        self.margins = (0, 0, 0, 0)
        self.kind.changed.connect(lambda _: self.show_fields())
        self.head.changed.connect(self._head_changed)
        self.encoder.changed.connect(self._show_hint)
        self._complete_names()

    # -- building --------------------------------------------------------------------------

    def _make_choice(self) -> None:
        self.kind = ComboBox(
            label="Model",
            choices=[DEMO, BUNDLE, PARTS, CHECKPOINT],
            tooltip="Demo model: small, shipped with the plugin, for H&E-like demo slides only.\n"
            "Model bundle: encoder, head, tile size and class names in one file or folder.\n"
            "Encoder + head: put together by name here.\n"
            "Checkpoint: a head as its authors published it (CLAM, DSMIL, TransMIL, ZoomMIL ...).",
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
            choices=[(words, name) for name, words in ARCHITECTURE_NAMES.items()],
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
        self.mpp = LineEdit(
            label="Tile µm per px",
            value="0.5",
            tooltip="Micrometres per pixel at which the network sees tiles: 0.5 is about 20x, "
            "0.25 about 40x.\nFor heads that look at several magnifications one number each, "
            "coarse to fine: 8, 2, 0.5\n(each a whole multiple of the next).",
        )

    def _complete_names(self) -> None:
        from qtpy.QtWidgets import QCompleter

        self.encoder.native.setCompleter(QCompleter(list(ENCODERS)))

    # -- what is shown ---------------------------------------------------------------------

    def show_fields(self) -> None:
        """Show the fields of the chosen kind of model only, and of a checkpoint what it lacks."""
        kind = self.kind.value
        known = kind == CHECKPOINT and self.checkpoint.summary is not None
        self._bundle.visible = kind == BUNDLE
        self.checkpoint.visible = kind == CHECKPOINT
        self.checkpoint.show_fields()
        for line in (*self._encoder, *self._tiles):
            line.visible = kind == PARTS or known
        for line in self._head:
            line.visible = kind == PARTS
        self.hint.visible = known
        self._show_hint()
        self.head_options.show_for(self._architecture)

    @property
    def _architecture(self) -> str:
        if self.kind.value == PARTS:
            return str(self.head.value)
        return self.checkpoint.chosen if self.kind.value == CHECKPOINT else ""

    def _show_hint(self, _: Any = None) -> None:
        if self.checkpoint.summary is not None:
            length = self.checkpoint.summary.in_features
            self.hint.value = encoder_hint(self.encoder.value, length)

    def _head_changed(self, head: str) -> None:
        self._suggest_mpps(SEVERAL if head in OVER_MAGNIFICATIONS else 1)
        self.head_options.show_for(self._architecture)

    def _checkpoint_told(self) -> None:
        """Something new is known of the checkpoint: ask for what it does not tell."""
        summary = self.checkpoint.summary
        if summary is not None:
            names = default_classes(summary.num_classes, self._class_names())
            self.classes.value = ", ".join(names)
            self._suggest_mpps(summary.magnifications)
        self.show_fields()

    def _suggest_mpps(self, number: int) -> None:
        try:
            current = read_mpps(self.mpp.value)
        except BadArgumentError:
            current = (0.5,)
        suggested = default_mpps(number, current)
        self.mpp.value = ", ".join(f"{value:g}" for value in suggested)

    def _class_names(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.classes.value.split(",") if name.strip())

    # -- what is chosen --------------------------------------------------------------------

    def choice(self) -> ModelChoice:
        """What is chosen.

        Raises
        ------
        BadArgumentError
            A checkpoint that is not known (yet), or micrometres that are no numbers.
        """
        kind = self.kind.value
        if kind == DEMO:
            return ModelChoice("demo")
        if kind == BUNDLE:
            return ModelChoice("bundle", path=_bundle(path_in(self.bundle)))
        if kind == CHECKPOINT:
            self.checkpoint.require()
        weights = path_in(self.encoder_weights)
        return ModelChoice(
            "parts" if kind == PARTS else "checkpoint",
            path=None if kind == PARTS else path_in(self.checkpoint.file),
            encoder=self.encoder.value.strip(),
            encoder_weights="DEFAULT" if weights is None else str(weights),
            head=self._architecture,
            head_weights=path_in(self.head_weights) if kind == PARTS else None,
            classes=self._class_names(),
            tile_px=self.tile_px.value,
            mpps=read_mpps(self.mpp.value),
            options=self.head_options.values(),
        )


def _bundle(path: Path | None) -> Path | None:
    """The bundle's folder where its ``model.json`` was picked."""
    return path.parent if path is not None and path.name == "model.json" else path

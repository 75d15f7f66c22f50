"""The fields of *More options*: what most people leave as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from magicgui.widgets import ComboBox, Container, FileEdit, LineEdit, SpinBox

from napari_wsi_xai.tiles import TissueOptions
from napari_wsi_xai.viewer.settings import read_settings
from napari_wsi_xai.viewer.widgets.rows import path_in, row

__all__ = ["MoreFields"]


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
        return path_in(self.folder)

"""What a slide backend offers: the one interface between file formats and everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.geometry import Mpp, Region

__all__ = ["Backend", "Description", "Level", "Pixels", "composite", "one_line"]

Pixels = NDArray[np.uint8]
"""RGB pixels, (y, x, c=3) uint8."""


@dataclass(frozen=True)
class Level:
    """One level of the pyramid.

    Attributes
    ----------
    shape
        Size in pixels of this level, (y, x).
    downsample
        Level-0 pixels per pixel of this level, mean of both axes; need not be an integer.
    tile
        Size of the blocks the file itself stores, (y, x).
    """

    shape: tuple[int, int]
    downsample: float
    tile: tuple[int, int]


@dataclass(frozen=True)
class Description:
    """Everything a backend knows of a slide before a pixel is read.

    Attributes
    ----------
    levels
        Finest first.
    mpp
        Micrometres per level-0 pixel (y, x), ``None`` where the file does not say.
    bounds
        Level-0 rectangle that holds the scanned region.
    background
        RGB colour of what was not scanned.
    vendor, objective_power
        As the file says, or ``None``.
    properties
        All metadata, as text.
    associated
        Sizes (y, x) of the label, macro and thumbnail images by name.
    """

    levels: tuple[Level, ...]
    mpp: Mpp | None
    bounds: Region
    background: tuple[int, int, int] = (255, 255, 255)
    vendor: str | None = None
    objective_power: float | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    associated: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class Backend(Protocol):
    """An open slide of one file format. Every method may be called from any thread."""

    kind: str
    """``"openslide"``, ``"tifffile"`` or ``"ome-zarr"``."""
    description: Description

    def read(self, level: int, y: int, x: int, height: int, width: int) -> Pixels:
        """Pixels of a rectangle that lies wholly inside ``level``, in pixels of that level.

        May raise anything: the caller adds the region and makes it a ``SlideReadError``.
        """

    def read_associated(self, name: str) -> Pixels:
        """Decode the associated image ``name`` (patient data: only on request)."""

    def fingerprint(self) -> str:
        """Digest of the content, independent of path and time."""

    def close(self) -> None:
        """Let the files go; later reads fail."""


def composite(
    rgb: Pixels, alpha: Pixels, background: tuple[int, int, int], premultiplied: bool
) -> Pixels:
    """Lay ``rgb`` over ``background``: ``alpha * rgb + (1 - alpha) * background``, rounded.

    Parameters
    ----------
    rgb
        (y, x, 3) uint8.
    alpha
        (y, x) uint8, 255 is opaque.
    background
        RGB colour.
    premultiplied
        Whether ``rgb`` is already multiplied by ``alpha``.
    """
    weight = alpha[..., np.newaxis].astype(np.uint32)
    front = rgb.astype(np.uint32)
    front = front * 255 if premultiplied else front * weight
    mixed = front + (255 - weight) * np.asarray(background, dtype=np.uint32)
    return np.asarray(np.minimum((mixed + 127) // 255, 255), dtype=np.uint8)


def one_line(error: BaseException) -> str:
    """First words of ``error`` without line breaks, for a one-line message."""
    text = " ".join(str(error).split()).rstrip(".")
    return (text or type(error).__name__)[:200]

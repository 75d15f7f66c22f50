"""Level-0 pixels, micrometres and tile indices: every conversion between them lives here.

All coordinates are yx. Level-0 pixels are named ``..._level0``, micrometres end in ``_um``.
A point in micrometres is its level-0 pixel coordinate times the slide's mpp; the slide's pixel
(0, 0) has its *corner* at 0 in both. napari puts pixel *centres* on integers, so layers need the
half-pixel shift of :func:`layer_transform`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["LayerTransform", "Mpp", "Region", "layer_transform", "level0_to_um", "um_to_level0"]

Mpp = tuple[float, float]
"""Micrometres per level-0 pixel, (y, x)."""


@dataclass(frozen=True)
class Region:
    """A rectangle in level-0 pixels: its first corner and its size, yx."""

    y: int
    x: int
    height: int
    width: int

    @property
    def origin(self) -> tuple[int, int]:
        """First corner (y, x)."""
        return self.y, self.x

    @property
    def shape(self) -> tuple[int, int]:
        """Size (height, width)."""
        return self.height, self.width


@dataclass(frozen=True)
class LayerTransform:
    """napari ``scale`` and ``translate`` in micrometres, yx."""

    scale: tuple[float, float]
    translate: tuple[float, float]


def level0_to_um(points_level0: ArrayLike, mpp: Mpp) -> NDArray[np.float64]:
    """Level-0 pixel coordinates (..., 2) yx to micrometres."""
    return np.asarray(points_level0, dtype=np.float64) * np.asarray(mpp, dtype=np.float64)


def um_to_level0(points_um: ArrayLike, mpp: Mpp) -> NDArray[np.float64]:
    """Micrometres (..., 2) yx to level-0 pixel coordinates."""
    return np.asarray(points_um, dtype=np.float64) / np.asarray(mpp, dtype=np.float64)


def layer_transform(
    origin_level0: Sequence[float], pixel_size_level0: Sequence[float], mpp: Mpp
) -> LayerTransform:
    """Where napari must put an image whose pixels are ``pixel_size_level0`` wide on the slide.

    The slide layer itself has scale ``mpp`` and translate 0: the *centre* of its first pixel is
    at 0. The centre of the image's first pixel therefore lies at
    ``(origin_level0 + (pixel_size_level0 - 1) / 2) * mpp``.

    Parameters
    ----------
    origin_level0
        Corner of the image's first pixel in level-0 pixels, yx.
    pixel_size_level0
        Edge of one image pixel in level-0 pixels, yx (a tile's stride, a level's downsample).
    mpp
        Micrometres per level-0 pixel, yx.
    """
    size = np.asarray(pixel_size_level0, dtype=np.float64)
    origin = np.asarray(origin_level0, dtype=np.float64)
    scale = size * mpp
    translate = (origin + (size - 1) / 2) * mpp
    return LayerTransform(
        (float(scale[0]), float(scale[1])), (float(translate[0]), float(translate[1]))
    )

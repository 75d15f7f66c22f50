"""A small picture of a whole slide, made strip by strip in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.slides import Slide

__all__ = ["Overview", "read_overview"]

STRIP_PIXELS = 16 * 2**20
"""Source pixels held at a time."""


@dataclass(frozen=True)
class Overview:
    """A downsampled picture of the slide's bounds.

    Attributes
    ----------
    image
        (height, width, 3) uint8 RGB.
    origin_level0
        Corner of its first pixel, level-0 pixels, yx.
    downsample
        Level-0 pixels per overview pixel.
    """

    image: NDArray[np.uint8]
    origin_level0: tuple[int, int]
    downsample: float


def read_overview(slide: Slide, downsample: float | None = None, max_px: int = 2048) -> Overview:
    """Read the slide's bounds at about ``downsample``, or so that no side exceeds ``max_px``.

    The nearest finer level is averaged over whole pixels, so the result's downsample may be a
    little smaller than asked for; it is returned exactly.

    Raises
    ------
    SlideReadError
        Pixels cannot be read.
    """
    bounds = slide.bounds
    wanted = max(bounds.shape) / max_px if downsample is None else downsample
    level = max(
        (i for i, d in enumerate(slide.downsamples) if d <= wanted),
        key=lambda i: slide.downsamples[i],
        default=0,
    )
    step = slide.downsamples[level]
    factor = max(1, math.ceil(wanted / step) if downsample is None else int(wanted / step))
    height, width = (max(1, int(n / step / factor)) for n in bounds.shape)
    image = np.empty((height, width, 3), dtype=np.uint8)
    rows = max(1, STRIP_PIXELS // (width * factor * factor))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        origin = (bounds.y + round(top * factor * step), bounds.x)
        strip = slide.read_region(origin, ((bottom - top) * factor, width * factor), level)
        image[top:bottom] = _block_mean(strip, factor)
    return Overview(image, bounds.origin, step * factor)


def _block_mean(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Mean over ``factor`` x ``factor`` blocks, rounded half up."""
    if factor == 1:
        return pixels
    height, width, channels = pixels.shape
    blocks = pixels.reshape(height // factor, factor, width // factor, factor, channels)
    area = factor * factor
    total = blocks.sum(axis=(1, 3), dtype=np.uint32)
    mean: NDArray[np.uint8] = ((total + area // 2) // area).astype(np.uint8)
    return mean

"""Which levels a converted slide has, and how a coarser one is made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_wsi_xai.slides.backend import Pixels

__all__ = ["PlannedLevel", "halve", "plan_levels"]

STEEPEST = 4.5
"""Largest step from one level to the next; steeper ones get levels in between."""
COARSEST_PX = 1024
"""Levels are added until the longer side is at most this."""


@dataclass(frozen=True)
class PlannedLevel:
    """A level to write: copied from level ``source`` of the slide, or halved from the one before.

    Attributes
    ----------
    shape
        Size (y, x) in its own pixels.
    downsample
        Level-0 pixels per pixel.
    source
        The slide's level, ``None`` where it is made from the level written before it.
    """

    shape: tuple[int, int]
    downsample: float
    source: int | None


def plan_levels(
    shapes: tuple[tuple[int, int], ...], downsamples: tuple[float, ...]
) -> list[PlannedLevel]:
    """All levels of the slide, and halved ones where its pyramid is missing or steep.

    Parameters
    ----------
    shapes
        Sizes (y, x) of the slide's levels.
    downsamples
        Of the same levels.
    """
    plan = [PlannedLevel(shapes[0], 1.0, 0)]
    following = 1
    while True:
        last = plan[-1]
        if following < len(shapes):
            step = downsamples[following] / last.downsample
            if step <= STEEPEST:
                plan.append(PlannedLevel(shapes[following], downsamples[following], following))
                following += 1
                continue
        elif max(last.shape) <= COARSEST_PX:
            return plan
        height, width = last.shape
        plan.append(PlannedLevel((-(-height // 2), -(-width // 2)), last.downsample * 2, None))


def halve(pixels: Pixels) -> Pixels:
    """Mean of each 2 x 2 square, rounded; a last odd row or column is repeated.

    Parameters
    ----------
    pixels
        (c, y, x) uint8.

    Returns
    -------
    numpy.ndarray
        (c, ceil(y / 2), ceil(x / 2)) uint8.
    """
    _, height, width = pixels.shape
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    rows = pixels[:, 0::2].astype(np.uint16) + pixels[:, 1::2]
    total = rows[..., 0::2] + rows[..., 1::2]
    return np.asarray((total + 2) >> 2, dtype=np.uint8)

"""A pen stroke across a slide, as people leave them to find a place again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_wsi_xai.demo.layout import Layout
from napari_wsi_xai.demo.noise import Lattice, noise_field, uniform
from napari_wsi_xai.geometry import Region

__all__ = ["Ink", "draw_ink"]

STROKE, STREAKS = 4000, 4100

RED_INK = (0.05, 0.95, 0.70)
"""Optical density in red, green, blue of felt-tip ink. Tissue detection leaves out blue, green and
black ink; red it does not tell from eosin, so that its tiles get into the bags."""

WIDTH_PX = 300.0  # on small pieces of tissue it is thinner
LENGTH_PX = 900.0
POINTS = 21
PLACES = 256
SOFT_PX = 3.0  # half the width of the stroke's rim
LATTICE_PX = 4


@dataclass(frozen=True)
class Ink:
    """A stroke with round ends.

    Attributes
    ----------
    line
        (x, y) level-0 pixels of its middle line.
    width_px
        From rim to rim.
    density
        Optical density in red, green and blue.
    """

    line: tuple[tuple[float, float], ...]
    width_px: float
    density: tuple[float, float, float] = RED_INK

    @cached_property
    def outline(self) -> shapely.Polygon:
        """What the ink covers, (x, y) level-0 pixels."""
        return shapely.LineString(self.line).buffer(self.width_px / 2, quad_segs=12)

    def over(self, image: NDArray[np.uint8], region: Region, seed: int) -> NDArray[np.uint8]:
        """The pixels (height, width, 3) of a region as seen through the ink."""
        left, top, right, bottom = self.outline.bounds
        rim = 16 + SOFT_PX
        if not (
            left - rim < region.x + region.width
            and region.x < right + rim
            and top - rim < region.y + region.height
            and region.y < bottom + rim
        ):
            return image
        cover = self._cover(region)
        cover *= 1 + 0.12 * noise_field(region, 60, seed, STREAKS)
        light = image * np.exp(-cover[..., None] * np.asarray(self.density, dtype=np.float32))
        return np.asarray(np.clip(light, 0, 255), dtype=np.uint8)

    def _cover(self, region: Region) -> NDArray[np.float32]:
        """1 under the ink, 0 beside it; from the distance to the middle line."""
        lattice = Lattice(region, LATTICE_PX)
        rows, columns = np.broadcast_arrays(*lattice.nodes())
        points = shapely.points(columns * float(LATTICE_PX), rows * float(LATTICE_PX))
        line = shapely.LineString(self.line)
        shapely.prepare(line)
        depth = lattice.upsample(self.width_px / 2 - shapely.distance(line, points))
        return np.asarray(np.clip(depth / (2 * SOFT_PX) + 0.5, 0, 1), dtype=np.float32)


def draw_ink(seed: int, layout: Layout) -> Ink:
    """A curved stroke on the largest piece of tissue, far from the tumour nests.

    Of :data:`PLACES` places the one farthest from the nests, so that where a model looks tells
    whether it looks at the ink or at the tumour.
    """
    tissue = layout.tissue
    largest = int(np.argmax(tissue.reach))
    nests = shapely.union_all(layout.nests.polygons())
    strokes = [_stroke(seed, place, tissue.radii[largest]) for place in range(PLACES)]
    centre = np.array([tissue.x[largest], tissue.y[largest]])
    lines = [shapely.LineString(stroke + centre) for stroke in strokes]
    far = [0.0 if nests.is_empty else line.distance(nests) for line in lines]
    chosen = lines[int(np.argmax(far))]
    width = min(WIDTH_PX, 0.2 * float(tissue.reach[largest]))
    return Ink(tuple((float(x), float(y)) for x, y in chosen.coords), width)


def _stroke(seed: int, place: int, radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (n, 2) xy of an arc, slightly unsteady, about the centre of a piece of tissue."""
    draw = uniform(seed, STROKE, place, np.arange(4))
    share = 0.25 + 0.45 * draw[0]
    span = min(LENGTH_PX / (share * float(radii.mean())), np.pi)
    theta = 2 * np.pi * draw[1] + np.linspace(0, span, POINTS)
    turn = theta * (len(radii) / (2 * np.pi))
    edge = np.interp(turn % len(radii), np.arange(len(radii) + 1), np.append(radii, radii[0]))
    radius = share * edge * (1 + 0.06 * np.sin(3 * theta + 6.3 * draw[2]))
    return np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=1)

"""Star-shaped blobs: tissue pieces, tumour nests, glands, vessels, lymphoid clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_wsi_xai.demo.noise import Lattice, uniform
from napari_wsi_xai.geometry import Region

__all__ = ["ANGLES", "OUTSIDE", "Blobs", "outline"]

ANGLES = 256
"""Angles at which a blob's radius is known."""
OUTSIDE = -1e4
"""Depth where there is no blob far and wide."""

Floats = NDArray[np.float64]


def outline(
    seed: int, salt: int, index: int, radius: float, elongation: float, roughness: float
) -> Floats:
    """Radii (ANGLES,) of a blob that fits into a circle of ``radius``.

    An ellipse at a random angle times 1 + harmonics whose strength falls with their order,
    scaled so that the largest radius is ``radius``.
    """
    theta = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    orders = np.arange(2, 12)
    phase = uniform(seed, salt, index, orders) * 2 * np.pi
    strength = roughness * (0.4 + uniform(seed, salt + 1, index, orders)) / orders**0.9
    turn = float(uniform(seed, salt + 2, np.array(index))) * np.pi
    ellipse = 1 / np.hypot(np.cos(theta - turn), elongation * np.sin(theta - turn))
    waves = 1 + (strength[:, None] * np.cos(orders[:, None] * theta + phase[:, None])).sum(0)
    radii = ellipse * np.maximum(waves, 0.25)
    return np.asarray(radii * (radius / radii.max()))


@dataclass(frozen=True)
class Blobs:
    """Blobs of one kind: centres (n,) in level-0 pixels and radii (n, ANGLES)."""

    y: Floats
    x: Floats
    radii: Floats

    @classmethod
    def empty(cls) -> Blobs:
        """No blobs."""
        return cls(np.zeros(0), np.zeros(0), np.zeros((0, ANGLES)))

    def __len__(self) -> int:
        return len(self.y)

    def __add__(self, other: Blobs) -> Blobs:
        """Those of both."""
        return Blobs(
            np.append(self.y, other.y),
            np.append(self.x, other.x),
            np.vstack([self.radii, other.radii]),
        )

    @property
    def reach(self) -> Floats:
        """Largest radius of each (n,)."""
        return np.asarray(self.radii.max(axis=1, initial=0.0))

    def near(self, region: Region, margin: float = 0.0) -> Blobs:
        """Those whose circle, widened by ``margin``, touches the region."""
        if not len(self):
            return self
        reach = self.reach + margin
        dy = np.maximum(np.maximum(region.y - self.y, self.y - region.y - region.height), 0)
        dx = np.maximum(np.maximum(region.x - self.x, self.x - region.x - region.width), 0)
        keep = dy**2 + dx**2 <= reach**2
        return Blobs(self.y[keep], self.x[keep], self.radii[keep])

    def depth(self, y: Floats, x: Floats) -> Floats:
        """How far points lie inside the nearest blob, along its ray; negative outside.

        ``y`` and ``x`` broadcast against each other; the answer has their common shape.
        """
        deepest = np.full(np.broadcast_shapes(y.shape, x.shape), OUTSIDE)
        for cy, cx, radii in zip(self.y, self.x, self.radii, strict=True):
            dy, dx = y - cy, x - cx
            turn = np.arctan2(dy, dx) * (ANGLES / (2 * np.pi)) % ANGLES
            low = np.floor(turn).astype(np.intp) % ANGLES
            part = turn - np.floor(turn)
            edge = radii[low] * (1 - part) + radii[(low + 1) % ANGLES] * part
            np.maximum(deepest, edge - np.hypot(dy, dx), out=deepest)
        return deepest

    def depth_field(self, region: Region, margin: float) -> NDArray[np.float32] | None:
        """Depth at each pixel of a region, exact every 4 px and linear between.

        Depths below ``-margin`` are only known to be that. ``None`` where no blob is near.
        """
        close = self.near(region, margin + 16)
        if not len(close):
            return None
        lattice = Lattice(region, 4)
        rows, columns = lattice.nodes()
        depth = close.depth(rows.astype(np.float64) * 4, columns.astype(np.float64) * 4)
        # Blobs beyond the margin are known in one region and not in its neighbour.
        return lattice.upsample(np.maximum(depth, -margin))

    def polygons(self) -> list[shapely.Polygon]:
        """Outlines as polygons, (x, y) level-0 pixels."""
        theta = np.arange(ANGLES) * (2 * np.pi / ANGLES)
        xs = self.x[:, None] + self.radii * np.cos(theta)
        ys = self.y[:, None] + self.radii * np.sin(theta)
        return [shapely.Polygon(np.stack(xy, axis=1)) for xy in zip(xs, ys, strict=True)]

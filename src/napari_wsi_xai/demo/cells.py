"""Which nuclei stand where: the cell populations of a demo slide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_wsi_xai.demo.layout import Layout
from napari_wsi_xai.demo.noise import noise_at, uniform
from napari_wsi_xai.demo.nuclei import TURNS, VARIANTS, jittered_points
from napari_wsi_xai.demo.shapes import ANGLES, Blobs
from napari_wsi_xai.geometry import Region

__all__ = ["GLAND_WALL", "REACH", "VESSEL_WALL", "Population", "fibre_angle", "populations"]

Floats = NDArray[np.float64]

REACH = 32  # px a nucleus may stick out from its centre
GLAND_WALL = 30.0  # px, height of the epithelium
VESSEL_WALL = 9.0
FIBRE_BEND = ((1500, 950.0), (430, 260.0), (120, 34.0))
"""Octaves (spacing px, amplitude px) that bend the collagen fibres."""

STROMA, DIFFUSE, LYMPHOID, TUMOUR, RING, BLOOD = range(2000, 2600, 100)
BEND = 2700


@dataclass(frozen=True)
class Population:
    """Nuclei of one kind: centres (n,) in level-0 pixels and the stamp of each."""

    kind: str
    y: Floats
    x: Floats
    which: NDArray[np.intp]


def fibre_angle(y: Floats, x: Floats, seed: int) -> Floats:
    """Direction of the collagen at points, radians; fibres follow the level lines of a potential.

    The potential is ``x cos a + y sin a`` plus smooth noise; the fibre runs across its gradient.
    """
    tilt = float(uniform(seed, BEND, np.array(0))) * np.pi
    slope_y, slope_x = np.full(y.shape, np.sin(tilt)), np.full(x.shape, np.cos(tilt))
    for octave, (spacing, amplitude) in enumerate(FIBRE_BEND):
        salt, step = BEND + 1 + octave, 8.0
        ahead = noise_at(y + step, x, spacing, seed, salt) - noise_at(
            y - step, x, spacing, seed, salt
        )
        aside = noise_at(y, x + step, spacing, seed, salt) - noise_at(
            y, x - step, spacing, seed, salt
        )
        slope_y += amplitude * ahead / (2 * step)
        slope_x += amplitude * aside / (2 * step)
    return np.asarray(np.arctan2(slope_y, slope_x) + np.pi / 2)


def _oriented(angle: Floats, chance: Floats) -> NDArray[np.intp]:
    """Stamp whose long axis has the angle; the variant is taken from a random number."""
    turn = np.rint(angle % np.pi * (TURNS / np.pi)).astype(np.intp) % TURNS
    variant = (chance * 9973.0 % 1.0 * VARIANTS).astype(np.intp)
    return np.asarray(turn * VARIANTS + variant)


def _any_stamp(chance: Floats) -> NDArray[np.intp]:
    return np.asarray((chance * 7919.0 % 1.0 * TURNS * VARIANTS).astype(np.intp))


def _kept(
    kind: str, y: Floats, x: Floats, which: NDArray[np.intp], keep: NDArray[np.bool_]
) -> Population:
    return Population(kind, y[keep], x[keep], which[keep])


def populations(layout: Layout, seed: int, region: Region) -> Iterator[Population]:
    """All nuclei whose centres lie within ``REACH`` of a region."""
    if not len(layout.tissue.near(region, REACH)):
        return
    near = {
        name: getattr(layout, name).near(region, REACH + 40)
        for name in ("tissue", "foci", "nests", "glands", "clusters", "vessels", "fat", "mimics")
    }
    local = Layout(**near)
    yield _fibroblasts(local, seed, region)
    yield _diffuse_lymphocytes(local, seed, region)
    if len(local.clusters):
        yield _lymphoid(local, seed, region)
    if len(local.nests):
        yield _solid("tumour", local.nests, seed, region)
    if len(local.mimics):
        yield _solid("reactive", local.mimics, seed, region)
    if len(local.glands):
        yield _ring("epithelial", local.glands, seed, region, inset=10.5, spacing=11.5)
    if len(local.vessels):
        yield _ring("fibroblast", local.vessels, seed, region, inset=4.0, spacing=30.0)
        yield _blood(local, seed, region)


def _fibroblasts(layout: Layout, seed: int, region: Region) -> Population:
    y, x, chance = jittered_points(region, REACH, 46.0, 17.0, seed, STROMA)
    keep = (chance < 0.62) & (layout.tissue.depth(y, x) > 8)
    keep &= layout.solid.depth(y, x) < -10
    keep &= np.maximum(layout.glands.depth(y, x), layout.vessels.depth(y, x)) < -6
    keep &= layout.fat.depth(y, x) < 0
    keep &= layout.clusters.depth(y, x) < 15
    y, x, chance = y[keep], x[keep], chance[keep]
    angle = fibre_angle(y, x, seed) + (chance - 0.31) * 0.9
    return Population("fibroblast", y, x, _oriented(angle, chance))


def _diffuse_lymphocytes(layout: Layout, seed: int, region: Region) -> Population:
    """Scattered in stroma, many in inflamed areas, few inside tumour nests, none in glands."""
    y, x, chance = jittered_points(region, REACH, 27.0, 11.0, seed, DIFFUSE)
    inflamed = np.clip(layout.foci.depth(y, x) / 150 + 0.6, 0, 1)
    streaks = np.clip(noise_at(y, x, 130, seed, DIFFUSE + 5), 0, 1)
    rim = np.clip(layout.clusters.depth(y, x) / 90 + 1, 0, 1) ** 2
    wanted = 0.012 + 0.05 * streaks + inflamed * (0.04 + 0.55 * streaks) + 0.35 * rim
    wanted = np.where(layout.solid.depth(y, x) > -8, 0.02, wanted)
    keep = (chance < wanted) & (layout.tissue.depth(y, x) > 6)
    keep &= np.maximum(layout.glands.depth(y, x), layout.vessels.depth(y, x)) < -6
    keep &= layout.fat.depth(y, x) < 0
    return _kept("lymphocyte", y, x, _any_stamp(chance), keep)


def _lymphoid(layout: Layout, seed: int, region: Region) -> Population:
    y, x, chance = jittered_points(region, REACH, 15.5, 4.5, seed, LYMPHOID)
    keep = chance < np.clip(layout.clusters.depth(y, x) / 45 + 0.25, 0, 0.9)
    keep &= layout.clusters.depth(y, x) > 0
    keep &= layout.tissue.depth(y, x) > 6
    return _kept("lymphocyte", y, x, _any_stamp(chance), keep)


def _solid(kind: str, nests: Blobs, seed: int, region: Region) -> Population:
    """Fill the nests' polygons: the ground truth is exact because it is the same test."""
    y, x, chance = jittered_points(region, REACH, 31.0, 9.0, seed, TUMOUR)
    inside = np.zeros(y.shape, dtype=bool)
    for polygon in nests.polygons():
        inside |= shapely.contains_xy(polygon, x, y)
    return _kept(kind, y, x, _any_stamp(chance), inside & (chance < 0.95))


def _ring(
    kind: str, blobs: Blobs, seed: int, region: Region, inset: float, spacing: float
) -> Population:
    """Nuclei side by side along the inside of each outline.

    Epithelial nuclei stand upright on it, endothelial ones lie flat.
    """
    ys, xs, angles, chances = [], [], [], []
    for cy, cx, radii in zip(blobs.y, blobs.x, blobs.radii, strict=True):
        middle = np.append(radii, radii[0]) - inset
        theta = np.arange(ANGLES + 1) * (2 * np.pi / ANGLES)
        way = np.concatenate(
            [[0.0], np.cumsum(np.hypot(np.diff(middle), middle[:-1] * (2 * np.pi / ANGLES)))]
        )
        count = max(3, int(way[-1] / spacing))
        # A blob is told from others by where it is: its number depends on the region asked for.
        own = uniform(
            seed, RING, int(cy * 16), int(cx * 16), np.arange(count), np.arange(3)[:, None]
        )
        at = np.interp((np.arange(count) + 0.7 * own[0]) / count * way[-1], way, theta)
        radius = np.interp(at, theta, middle) + (own[1] - 0.5) * inset * 0.6
        ys.append(cy + radius * np.sin(at))
        xs.append(cx + radius * np.cos(at))
        angles.append(at + (own[1] - 0.5) * 0.5)
        chances.append(own[2])
    y, x, chance = np.concatenate(ys), np.concatenate(xs), np.concatenate(chances)
    flat = 0.0 if kind == "epithelial" else np.pi / 2
    which = _oriented(np.concatenate(angles) + flat, chance)
    keep = (y > region.y - REACH) & (y < region.y + region.height + REACH)
    keep &= (x > region.x - REACH) & (x < region.x + region.width + REACH)
    return _kept(kind, y, x, which, keep)


def _blood(layout: Layout, seed: int, region: Region) -> Population:
    y, x, chance = jittered_points(region, REACH, 14.0, 4.0, seed, BLOOD)
    depth = layout.vessels.depth(y, x)
    filled = 0.75 * np.clip(0.5 + noise_at(y, x, 60, seed, BLOOD + 5), 0.0, 1.0)
    keep = (depth > VESSEL_WALL + 6) & (chance < filled)
    return _kept("erythrocyte", y, x, _any_stamp(chance), keep)

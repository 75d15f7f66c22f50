"""Nuclei: drawn once as small stamps, then set at positions hashed from the slide's seed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_wsi_xai.demo.noise import uniform
from napari_wsi_xai.geometry import Region

__all__ = ["KINDS", "TURNS", "VARIANTS", "jittered_points", "set_stamps", "stamps"]

Floats = NDArray[np.float64]

TURNS = 24  # orientations of an elongated nucleus over half a turn
VARIANTS = 5  # nuclei drawn for each orientation

# kind: long and short half axis (least, most) px at mpp 0.5; haematoxylin; irregularity; chromatin
KINDS: dict[str, tuple[tuple[float, float], tuple[float, float], float, float, float]] = {
    "lymphocyte": ((5.6, 7.2), (5.2, 6.6), 1.75, 0.05, 0.22),
    "fibroblast": ((9.0, 16.0), (2.0, 3.4), 1.25, 0.10, 0.10),
    "epithelial": ((7.5, 10.0), (4.6, 6.0), 1.20, 0.05, 0.16),
    "tumour": ((11.0, 20.0), (9.0, 14.5), 1.45, 0.24, 0.34),
    "erythrocyte": ((6.0, 7.2), (5.4, 6.8), 0.95, 0.06, 0.05),
    "reactive": ((9.4, 15.3), (7.9, 12.0), 1.34, 0.13, 0.25),
}


@lru_cache(maxsize=len(KINDS))
def stamps(kind: str) -> tuple[NDArray[np.float32], ...]:
    """Optical densities of TURNS * VARIANTS nuclei of a kind, orientation by orientation.

    Each is a small odd-sized float32 image, 0 around the nucleus.
    """
    return tuple(_draw(kind, index) for index in range(TURNS * VARIANTS))


def _draw(kind: str, index: int) -> NDArray[np.float32]:
    """One nucleus: outline, chromatin, a darker rim and, in tumour cells, nucleoli."""
    (a_low, a_high), (b_low, b_high), density, irregular, chromatin = KINDS[kind]
    salt = 1000 + 50 * list(KINDS).index(kind)
    draw = uniform(0, salt, index, np.arange(40))
    a = a_low + (a_high - a_low) * draw[0] ** 1.4
    b = min(a, b_low + (b_high - b_low) * draw[1])
    half = int(a * (1 + irregular) + 4)
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    turn = np.pi * (index // VARIANTS) / TURNS
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    across = across + (draw[2] - 0.5) * 0.25 * along**2 / a  # slightly bent
    theta = np.arctan2(across / b, along / a)
    wave = sum(
        irregular * (draw[4 + k] - 0.25) / k**0.5 * np.cos(k * theta + 6.3 * draw[10 + k])
        for k in (2, 3, 4, 5)
    )
    inside = (1 + wave - np.hypot(along / a, across / b)) * b  # about px inside the outline
    cover = np.clip(inside / 1.6 + 0.5, 0, 1)
    grain = uniform(index, salt + 1, np.arange(y.shape[0])[:, None], np.arange(y.shape[1]))
    clumps = ndimage.gaussian_filter(grain, 1.1 if kind == "lymphocyte" else 1.6) - 0.5
    clumps *= chromatin / max(clumps.std(), 1e-9)
    tone = 1 + clumps + 0.22 * np.exp(-((inside - 1.6) ** 2) / 2.5)
    if kind in ("tumour", "reactive"):
        tone += _nucleoli(draw, y, x, b) - 0.18 * np.clip(inside / 6 - 0.3, 0, 1)
        density *= 0.78 + 0.6 * draw[3]  # some vesicular, some hyperchromatic
    return np.asarray(density * cover * np.clip(tone, 0.35, 1.7), dtype=np.float32)


def _nucleoli(draw: Floats, y: Floats, x: Floats, b: float) -> Floats:
    """One to three dark spots."""
    spots = np.zeros_like(y)
    for spot in range(1 + int(3 * draw[20])):
        cy, cx = (draw[21 + 2 * spot : 23 + 2 * spot] - 0.5) * b
        spots += 0.55 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * (1.3 + draw[30]) ** 2))
    return spots


def jittered_points(
    region: Region, margin: int, spacing: float, jitter: float, seed: int, salt: int
) -> tuple[Floats, Floats, Floats]:
    """Points of a hexagonal grid, each moved at random, in a region widened by ``margin``.

    Returns
    -------
    y, x
        Positions (n,) in level-0 pixels.
    chance
        A random number in [0, 1) of each point, for keeping only some.
    """
    row_step = spacing * 0.866
    rows = np.arange(
        int((region.y - margin - spacing) // row_step),
        int((region.y + region.height + margin + spacing) // row_step) + 1,
    )[:, None]
    columns = np.arange(
        int((region.x - margin - spacing) // spacing) - 1,
        int((region.x + region.width + margin + spacing) // spacing) + 1,
    )[None, :]
    moved_y = (uniform(seed, salt, rows, columns) - 0.5) * 2 * jitter
    moved_x = (uniform(seed, salt + 1, rows, columns) - 0.5) * 2 * jitter
    y = (rows * row_step + moved_y).ravel()
    x = ((columns + 0.5 * (rows % 2)) * spacing + moved_x).ravel()
    chance = uniform(seed, salt + 2, rows, columns).ravel()
    keep = (y >= region.y - margin) & (y < region.y + region.height + margin)
    keep &= (x >= region.x - margin) & (x < region.x + region.width + margin)
    return y[keep], x[keep], chance[keep]


def set_stamps(
    canvas: NDArray[np.float32],
    region: Region,
    bank: tuple[NDArray[np.float32], ...],
    y: Floats,
    x: Floats,
    which: NDArray[np.integer],
) -> None:
    """Set stamps at points onto a canvas, in place.

    Where two overlap the denser one wins: the result does not depend on their order.
    """
    height, width = canvas.shape
    tops, lefts = np.rint(y).astype(int) - region.y, np.rint(x).astype(int) - region.x
    for top, left, index in zip(tops.tolist(), lefts.tolist(), which.tolist(), strict=True):
        stamp = bank[index]
        half = stamp.shape[0] // 2
        y0, x0 = top - half, left - half
        y1, x1 = top + half + 1, left + half + 1
        if y0 >= height or x0 >= width or y1 <= 0 or x1 <= 0:
            continue
        cut = stamp[
            max(-y0, 0) : stamp.shape[0] - max(y1 - height, 0),
            max(-x0, 0) : stamp.shape[1] - max(x1 - width, 0),
        ]
        target = canvas[max(y0, 0) : y1, max(x0, 0) : x1]
        np.maximum(target, cut, out=target)

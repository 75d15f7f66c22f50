"""What lies where on a demo slide: tissue, tumour nests, glands, vessels, fat, lymphocytes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_wsi_xai.demo.noise import uniform
from napari_wsi_xai.demo.shapes import Blobs, outline
from napari_wsi_xai.errors import BadArgumentError

__all__ = ["FewNests", "Layout", "lay_out"]

PIECE_PX = 16_000  # a slide larger than this holds several pieces of tissue
MARGIN_PX = 40.0  # nothing is put nearer to the tissue's edge

# Salts: what a random number is for. Each use takes a few consecutive ones.
PIECE, FOCUS, NEST, LOBULE, GLAND, CLUSTER, VESSEL, FAT, FEW, MIMIC = range(100, 1100, 100)


@dataclass(frozen=True)
class Layout:
    """The large objects of a slide, all in level-0 pixels.

    Attributes
    ----------
    tissue
        Pieces of tissue on the glass.
    foci
        Inflamed areas. In a tumour slide they hold the nests; a normal slide has them all the
        same, without nests, so that inflammation does not tell one from the other.
    nests
        Tumour nests: tumour cells lie in them and nowhere else.
    glands, clusters, vessels, fat
        Glands in lobules, lymphoid clusters, small blood vessels, fat lobules.
    mimics
        Solid nests of reactive cells, which are no tumour.
    """

    tissue: Blobs
    foci: Blobs
    nests: Blobs
    glands: Blobs
    clusters: Blobs
    vessels: Blobs
    fat: Blobs
    mimics: Blobs = field(default_factory=Blobs.empty)

    @property
    def solid(self) -> Blobs:
        """Nests of either kind: where there are cells side by side and no stroma."""
        return self.nests + self.mimics if len(self.mimics) else self.nests


@dataclass(frozen=True)
class FewNests:
    """Nests that have to be looked for, in place of inflamed areas full of them.

    Attributes
    ----------
    count
        Fewest and most tumour nests of a tumour slide.
    radii_px
        Least and most of a nest's largest radius, level-0 pixels.
    mimics
        Fewest and most nests of reactive cells, of the same sizes, on a slide of either kind.
    """

    count: tuple[int, int]
    radii_px: tuple[float, float]
    mimics: tuple[int, int] = (0, 0)


class _Circles:
    """Circles placed so far, and the ground they must stay in."""

    def __init__(self, seed: int, ground: shapely.Geometry) -> None:
        self.seed = seed
        self.ground = ground
        self.edge = ground.boundary
        self.taken = np.zeros((0, 3))  # y, x, radius
        shapely.prepare([self.ground, self.edge])

    def place(
        self, salt: int, radii: NDArray[np.float64], gap: float, tries: int
    ) -> list[tuple[float, float, float]]:
        """Put one circle of each radius at the first of ``tries`` random free positions."""
        placed: list[tuple[float, float, float]] = []
        for index, radius in enumerate(radii):
            for first in range(0, tries, 16):  # most find a place soon
                numbers = np.arange(first, min(first + 16, tries))
                found = self._first_free(salt, index, numbers, float(radius), gap)
                if found is not None:
                    placed.append((*found, float(radius)))
                    self.taken = np.vstack([self.taken, placed[-1]])
                    break
        return placed

    def _first_free(
        self, salt: int, index: int, numbers: NDArray[np.int64], radius: float, gap: float
    ) -> tuple[float, float] | None:
        left, top, right, bottom = self.ground.bounds
        y = top + (bottom - top) * uniform(self.seed, salt, index, numbers)
        x = left + (right - left) * uniform(self.seed, salt + 1, index, numbers)
        distance = np.hypot(y[:, None] - self.taken[:, 0], x[:, None] - self.taken[:, 1])
        free = (distance > radius + gap + self.taken[:, 2]).all(axis=1)
        free &= shapely.contains_xy(self.ground, x, y)
        for position in np.flatnonzero(free):
            point = shapely.Point(x[position], y[position])
            if not shapely.dwithin(self.edge, point, radius + MARGIN_PX):
                return float(y[position]), float(x[position])
        return None


def _blobs(
    seed: int,
    salt: int,
    circles: list[tuple[float, float, float]],
    roughness: float,
    stretch: float,
) -> Blobs:
    """Irregular blobs inside circles (y, x, radius)."""
    if not circles:
        return Blobs.empty()
    elongation = 1 + stretch * uniform(seed, salt + 5, np.arange(len(circles)))
    radii = [
        outline(seed, salt + 6, index, radius, float(elongation[index]), roughness)
        for index, (_, _, radius) in enumerate(circles)
    ]
    y, x, _ = np.array(circles).T
    return Blobs(y, x, np.array(radii))


def _tissue(seed: int, shape: tuple[int, int]) -> Blobs:
    """One large piece per ``PIECE_PX`` square, each with a fragment in a corner it leaves free."""
    counts = [max(1, round(length / PIECE_PX)) for length in shape]
    height, width = (length / count for length, count in zip(shape, counts, strict=True))
    half = min(height, width) / 2
    circles, fragments = [], []
    for piece in range(counts[0] * counts[1]):
        row, column = divmod(piece, counts[1])
        y, x = (row + 0.5) * height, (column + 0.5) * width
        circles.append((y, x, half * 0.98))
        corner = int(4 * float(uniform(seed, PIECE + 9, np.array(piece))))
        sign_y, sign_x = (corner // 2) * 2 - 1, (corner % 2) * 2 - 1
        fragments.append(
            (y + sign_y * 0.83 * height / 2, x + sign_x * 0.83 * width / 2, half * 0.14)
        )
    large = _blobs(seed, PIECE, circles, roughness=0.26, stretch=0.25)
    small = _blobs(seed, PIECE + 20, fragments, roughness=0.22, stretch=0.8)
    # A fragment must not touch its piece: two overlapping pieces would be one with a crease.
    apart = large.depth(small.y, small.x) < -half * 0.2
    pieces = Blobs(small.y[apart], small.x[apart], small.radii[apart])
    return large + pieces


def _spread(
    seed: int, salt: int, area: float, per_area: float, radii: tuple[float, float], least: int = 1
) -> NDArray[np.float64]:
    """Radii, large first, of as many objects as fit the area (in 10^6 px) of tissue."""
    count = max(
        least, round(area * per_area * (0.8 + 0.4 * float(uniform(seed, salt, np.array(0)))))
    )
    low, high = radii
    return -np.sort(-(low + (high - low) * uniform(seed, salt + 1, np.arange(count))))


def _packed(
    seed: int,
    salt: int,
    groups: list[tuple[float, float, float]],
    radii: tuple[float, float],
    count: int,
    gap: float,
) -> list[tuple[float, float, float]]:
    """Up to ``count`` circles packed into each group circle (y, x, radius)."""
    found = []
    for index, (y, x, radius) in enumerate(groups):
        ground = shapely.Point(x, y).buffer(radius + MARGIN_PX, quad_segs=24)
        circles = _Circles(seed + 7919 * (index + 1), ground)
        low, high = radii
        sizes = low + (high - low) * uniform(seed, salt + 8, index, np.arange(count)) ** 1.5
        sizes = np.minimum(-np.sort(-sizes), radius * 0.9)
        found += circles.place(salt + 2, sizes, gap, tries=96)
    return found


def _few(
    circles: _Circles, salt: int, count: tuple[int, int], radii: tuple[float, float]
) -> list[tuple[float, float, float]]:
    """Between two numbers of circles (y, x, radius), anywhere there is room."""
    (least, most), (low, high) = count, radii
    number = least + int((most - least + 1) * float(uniform(circles.seed, salt, np.array(0))))
    sizes = -np.sort(-(low + (high - low) * uniform(circles.seed, salt + 1, np.arange(number))))
    placed = circles.place(salt + 2, sizes, 20.0, tries=4096)
    if len(placed) < number:
        raise BadArgumentError(
            f"the tissue of seed {circles.seed} has room for {len(placed)} of {number} nests of "
            f"{low:.0f} to {high:.0f} px radius; ask for fewer or smaller ones, or larger slides."
        )
    return placed


def lay_out(
    seed: int, shape: tuple[int, int], tumour: bool, few_nests: FewNests | None = None
) -> Layout:
    """Decide where everything lies on a slide of ``shape`` (height, width) level-0 pixels.

    A normal slide is the tumour slide of the same seed with its nests left out. ``few_nests``
    changes nothing but the nests of either kind.

    Raises
    ------
    BadArgumentError
        The few nests find no room.
    """
    tissue = _tissue(seed, shape)
    ground = shapely.union_all(tissue.polygons())
    area, largest = ground.area / 1e6, float(tissue.reach.max())
    circles = _Circles(seed, ground)

    focus_radii = np.clip(np.array([0.19, 0.29]) * largest, 280, 1050)
    sizes = _spread(seed, FOCUS + 10, area, 0.14, tuple(focus_radii))
    foci = circles.place(FOCUS, sizes, 60.0, 400)
    while not foci:  # narrow tissue; a tumour slide must have a nest
        sizes = sizes * 0.7
        foci = circles.place(FOCUS, sizes, 60.0, 400)
    lobule_radii = np.clip(np.array([0.10, 0.17]) * largest, 190, 520)
    lobules = circles.place(
        LOBULE, _spread(seed, LOBULE + 10, area, 0.38, tuple(lobule_radii)), 30.0, 120
    )
    clusters = circles.place(CLUSTER, _spread(seed, CLUSTER + 10, area, 0.42, (90, 240)), 30.0, 120)
    fat = circles.place(FAT, _spread(seed, FAT + 10, area, 0.16, (180, 420), 0), 30.0, 80)
    vessels = circles.place(VESSEL, _spread(seed, VESSEL + 10, area, 1.1, (28, 80)), 20.0, 60)

    nests: list[tuple[float, float, float]] = []
    mimics: list[tuple[float, float, float]] = []
    if few_nests:
        free = _Circles(seed, ground)
        free.taken = circles.taken[len(foci) :]
        nests = _few(free, FEW, few_nests.count, few_nests.radii_px)
        mimics = _few(free, FEW + 10, few_nests.mimics, few_nests.radii_px)
    elif tumour:
        nests = _packed(seed, NEST, foci, (70.0, 520.0), 34, gap=10.0)
    glands = _packed(seed, GLAND, lobules, (56.0, 130.0), 44, gap=4.0)
    return Layout(
        tissue=tissue,
        foci=_blobs(seed, FOCUS, foci, 0.2, 0.2),
        nests=_blobs(seed, NEST, nests if tumour else [], 0.34, 0.4),
        glands=_blobs(seed, GLAND, glands, 0.16, 0.35),
        clusters=_blobs(seed, CLUSTER, clusters, 0.26, 0.5),
        vessels=_blobs(seed, VESSEL, vessels, 0.12, 0.9),
        fat=_blobs(seed, FAT, fat, 0.4, 0.4),
        mimics=_blobs(seed, MIMIC, mimics, 0.34, 0.4),
    )

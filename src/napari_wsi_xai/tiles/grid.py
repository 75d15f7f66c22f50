"""The tile grid: where every tile of a given size in micrometres lies on a slide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_wsi_xai.errors import BadArgumentError, GridError
from napari_wsi_xai.geometry import LayerTransform, Mpp, Region, layer_transform
from napari_wsi_xai.slides import Slide

__all__ = ["TileGrid", "tile_grid"]

RESAMPLE_TOLERANCE = 0.02
"""A level whose mpp is within 2 % of the tiles' mpp is read as it is."""

FINEST_RATIO = 0.5
"""Tiles may be at most this much finer than level 0 (linear interpolation fills the pixels)."""

_SLACK = 1e-6


@dataclass(frozen=True)
class TileGrid:
    """A regular grid of square tiles, exact in micrometres.

    Tile (row, column) covers ``tile_px * mpp`` micrometres a side. Its corner on level 0 is the
    grid's origin plus ``round(index * stride)``, each rounded from the exact product, so that no
    error adds up over the slide. Only tiles wholly inside the slide's bounds exist, unless the
    grid is one of several nested ones (:func:`nested_grids`).

    Attributes
    ----------
    shape
        Number of tiles (rows, columns).
    tile_px, stride_px
        Edge of a tile and distance between tiles, in pixels at ``mpp``.
    mpp
        Micrometres per tile pixel.
    origin_level0
        Corner of tile (0, 0), level-0 pixels, yx.
    slide_mpp
        Micrometres per level-0 pixel, yx.
    level, downsample
        The slide level that tiles are read from, and its downsample.
    finest_mpp
        Micrometres per pixel of the finest of several nested grids, ``mpp`` divided by a whole
        number: corners are corners of that grid, to the pixel, and tiles may overhang the bounds
        at the bottom and on the right, where they are white. None for a grid on its own.
    """

    shape: tuple[int, int]
    tile_px: int
    mpp: float
    stride_px: int
    origin_level0: tuple[int, int]
    slide_mpp: Mpp
    level: int
    downsample: float
    finest_mpp: float | None = None

    @property
    def finest_per_side(self) -> int:
        """Tiles of the finest nested grid along a tile's edge; 1 for a grid on its own."""
        return 1 if self.finest_mpp is None else round(self.mpp / self.finest_mpp)

    @property
    def scale_level0(self) -> tuple[float, float]:
        """Level-0 pixels per tile pixel, yx."""
        times, (y, x) = self.finest_per_side, self._finest_scale
        return times * y, times * x

    @property
    def _finest_scale(self) -> tuple[float, float]:
        mpp = self.mpp if self.finest_mpp is None else self.finest_mpp
        return mpp / self.slide_mpp[0], mpp / self.slide_mpp[1]

    @property
    def tile_size_level0(self) -> tuple[float, float]:
        """Edge of a tile in level-0 pixels, yx."""
        return self.tile_px * self.scale_level0[0], self.tile_px * self.scale_level0[1]

    @property
    def stride_level0(self) -> tuple[float, float]:
        """Distance between tiles in level-0 pixels, yx."""
        return self.stride_px * self.scale_level0[0], self.stride_px * self.scale_level0[1]

    @property
    def read_size(self) -> tuple[float, float]:
        """Edge of a tile in pixels of ``level``, yx; ``tile_px`` where no resampling is due."""
        ratios = [scale / self.downsample for scale in self.scale_level0]
        if all(abs(ratio - 1) <= RESAMPLE_TOLERANCE for ratio in ratios):
            return float(self.tile_px), float(self.tile_px)
        return self.tile_px * ratios[0], self.tile_px * ratios[1]

    def indices(self, selected: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """(row, column) of every tile, or of the selected ones, row by row: shape (n, 2)."""
        if selected is None:
            selected = np.ones(self.shape, dtype=bool)
        return np.argwhere(selected).astype(np.int64)

    def origins_level0(self, indices: ArrayLike | None = None) -> NDArray[np.int64]:
        """Corners of the tiles at ``indices`` (n, 2; default all), level-0 pixels, yx (n, 2)."""
        index = self.indices() if indices is None else np.asarray(indices, dtype=np.int64)
        # Whole numbers first: nested grids then round the very same products.
        steps = index.reshape(-1, 2) * self.finest_per_side
        exact = steps * (self.stride_px * np.asarray(self._finest_scale))
        corners = np.asarray(self.origin_level0, dtype=np.int64)
        return np.asarray(corners + np.floor(exact + 0.5).astype(np.int64))

    def index_at(self, points_level0: ArrayLike) -> NDArray[np.int64]:
        """(row, column) of the cell that holds each level-0 point (n, 2) yx; may lie outside."""
        offset = np.asarray(points_level0, dtype=np.float64) - np.asarray(self.origin_level0)
        return np.asarray(np.floor(offset / np.asarray(self.stride_level0)), dtype=np.int64)

    def region_of(self, rows: tuple[int, int], cols: tuple[int, int]) -> Region:
        """Level-0 rectangle of the tiles from ``rows[0]`` to ``rows[1] - 1``, likewise columns."""
        first, last = self.origins_level0([[rows[0], cols[0]], [rows[1] - 1, cols[1] - 1]])
        size = np.ceil(np.asarray(self.tile_size_level0)).astype(int)
        height, width = last - first + size
        return Region(int(first[0]), int(first[1]), int(height), int(width))

    def layer_transform(self) -> LayerTransform:
        """Scale and translate, in micrometres, of a map with one pixel a tile.

        One map pixel is one *stride* wide and centred on its tile, also where tiles overlap.
        """
        origin = [
            corner + (tile - stride) / 2
            for corner, tile, stride in zip(
                self.origin_level0, self.tile_size_level0, self.stride_level0, strict=True
            )
        ]
        return layer_transform(origin, self.stride_level0, self.slide_mpp)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; :meth:`from_dict` gives the grid back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if (key, value) != ("finest_mpp", None)  # stores know grids from before there were any
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TileGrid:
        """The grid of :meth:`to_dict`."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**fields)


def tile_grid(
    slide: Slide, tile_px: int = 224, mpp: float = 0.5, stride_px: int | None = None
) -> TileGrid:
    """Lay a grid of tiles of ``tile_px * mpp`` micrometres on a slide.

    Pixels come from the coarsest level that is still fine enough; they are resampled by area
    when its mpp is off by more than 2 %.

    Parameters
    ----------
    slide
        The slide; its mpp must be known.
    tile_px
        Edge of a tile in pixels.
    mpp
        Micrometres per tile pixel.
    stride_px
        Distance between tiles in pixels; ``tile_px`` (no gap, no overlap) by default.

    Raises
    ------
    MissingMppError
        The slide's mpp is not known.
    GridError
        A tile is larger than the slide, or much finer than its level 0.
    """
    stride_px = tile_px if stride_px is None else stride_px
    check_tiles(tile_px, mpp, stride_px)
    slide_mpp = slide.require_mpp()
    scale = (mpp / slide_mpp[0], mpp / slide_mpp[1])
    level = level_for(min(scale), slide, mpp)
    bounds = slide.bounds
    rows, cols = (
        math.floor((extent - tile_px * unit) / (stride_px * unit) + _SLACK) + 1
        for extent, unit in zip(bounds.shape, scale, strict=True)
    )
    if rows < 1 or cols < 1:
        height, width = (f"{n * m:.0f}" for n, m in zip(bounds.shape, slide_mpp, strict=True))
        raise GridError(
            f"tile_px={tile_px} at {mpp:g} um/px makes tiles of {tile_px * mpp:.0f} um, larger "
            f"than the slide ({height} x {width} um): choose a smaller tile or mpp."
        )
    return TileGrid(
        shape=(rows, cols),
        tile_px=tile_px,
        mpp=float(mpp),
        stride_px=stride_px,
        origin_level0=bounds.origin,
        slide_mpp=slide_mpp,
        level=level,
        downsample=slide.downsamples[level],
    )


def check_tiles(tile_px: int, mpp: float, stride_px: int) -> None:
    """Raise ``BadArgumentError`` where a number is out of its limits."""
    if not 8 <= tile_px <= 4096:
        raise BadArgumentError(f"tile_px={tile_px} is not between 8 and 4096.")
    if not 1 <= stride_px <= 4096:
        raise BadArgumentError(f"stride_px={stride_px} is not between 1 and 4096.")
    if not (math.isfinite(mpp) and 0.01 <= mpp <= 100):
        raise BadArgumentError(f"mpp={mpp} is not between 0.01 and 100 um/px.")


def level_for(scale: float, slide: Slide, mpp: float) -> int:
    """Index of the coarsest level that is at least as fine as the tiles (2 % slack)."""
    if scale < FINEST_RATIO:
        finest = min(slide.require_mpp())
        raise GridError(
            f"mpp={mpp:g} is more than twice as fine as the slide's level 0 ({finest:.3g} um/px): "
            f"choose --mpp {finest:.3g} or coarser, or a model made for that magnification."
        )
    downsamples: Sequence[float] = slide.downsamples
    fine = [i for i, d in enumerate(downsamples) if d <= scale * (1 + RESAMPLE_TOLERANCE)]
    return max(fine, key=lambda i: downsamples[i], default=0)

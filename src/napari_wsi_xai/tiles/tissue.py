"""Which tiles hold tissue: a mask on a coarse picture of the slide, and its share of each tile."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import BadArgumentError, NoTissueError
from napari_wsi_xai.slides import Slide
from napari_wsi_xai.tiles.grid import TileGrid
from napari_wsi_xai.tiles.overview import read_overview

__all__ = ["Tissue", "TissueMask", "TissueOptions", "tissue_mask", "tissue_tiles"]

MAX_SIDE_PX = 2048
"""Longest side of the coarse picture, so that memory does not grow with the slide."""

SATURATION_LIMITS = (0.05, 0.2)
"""Otsu's threshold is held within these, so that an empty slide holds no tissue."""


@dataclass(frozen=True)
class TissueOptions:
    """How tissue is told from glass.

    Attributes
    ----------
    method
        ``"auto"``: colour saturation above Otsu's threshold on a coarse picture;
        ``"none"``: every tile counts as tissue.
    min_fraction
        Smallest share of a tile that must be tissue, 0 to 1.
    saturation
        Threshold on saturation, 0 to 1, in place of Otsu's.
    resolution_um
        Micrometres per pixel of the coarse picture; more where a side would exceed 2048 pixels
        (above 16 mm of tissue at 8 um).
    min_area_um2
        Tissue pieces smaller than this are dropped, and holes smaller than this are filled.
    exclude_pen
        Leave out marker pen (blue, green, black) and black scanner borders.
    """

    method: Literal["auto", "none"] = "auto"
    min_fraction: float = 0.25
    saturation: float | None = None
    resolution_um: float = 8.0
    min_area_um2: float = 10_000.0
    exclude_pen: bool = True

    def __post_init__(self) -> None:
        if self.method not in ("auto", "none"):
            raise BadArgumentError(f"tissue method {self.method!r} is not 'auto' or 'none'.")
        if not 0 <= self.min_fraction <= 1:
            raise BadArgumentError(f"min_fraction={self.min_fraction} is not between 0 and 1.")
        if self.saturation is not None and not 0 <= self.saturation <= 1:
            raise BadArgumentError(f"saturation={self.saturation} is not between 0 and 1.")
        if self.resolution_um <= 0 or self.min_area_um2 < 0:
            raise BadArgumentError(
                f"resolution_um={self.resolution_um} must be above 0 and "
                f"min_area_um2={self.min_area_um2} not below 0."
            )


@dataclass(frozen=True)
class TissueMask:
    """A raster of what counts as tissue.

    Attributes
    ----------
    array
        (height, width) bool.
    origin_level0
        Corner of its first pixel, level-0 pixels, yx.
    pixel_size_level0
        Level-0 pixels per mask pixel, yx.
    """

    array: NDArray[np.bool_]
    origin_level0: tuple[float, float]
    pixel_size_level0: tuple[float, float]

    def fraction(self, grid: TileGrid) -> NDArray[np.float32]:
        """Share of every tile that the mask covers, (rows, cols) float32, exact at sub-pixels.

        A mask is constant within its pixels, so the integral over a tile is the difference of
        the bilinearly interpolated summed-area table at the tile's corners.
        """
        pixel = np.asarray(self.pixel_size_level0)
        low = (grid.origins_level0() - np.asarray(self.origin_level0)) / pixel
        high = low + np.asarray(grid.tile_size_level0) / pixel
        table = np.zeros(np.add(self.array.shape, 1))
        table[1:, 1:] = self.array.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
        covered = (
            _interpolate(table, high[:, 0], high[:, 1])
            - _interpolate(table, low[:, 0], high[:, 1])
            - _interpolate(table, high[:, 0], low[:, 1])
            + _interpolate(table, low[:, 0], low[:, 1])
        )
        share = covered / (high - low).prod(axis=1)
        return np.asarray(np.clip(share, 0, 1), dtype=np.float32).reshape(grid.shape)


@dataclass(frozen=True)
class Tissue:
    """Tissue on a tile grid.

    Attributes
    ----------
    fraction
        (rows, cols) float32, share of each tile that is tissue.
    selected
        (rows, cols) bool, the tiles that make up the bag.
    """

    fraction: NDArray[np.float32]
    selected: NDArray[np.bool_]

    @property
    def left_out(self) -> float:
        """Share of the tissue's area that lies in tiles with too little of it, 0 to 1."""
        whole = float(self.fraction.sum())
        return float(self.fraction[~self.selected].sum()) / whole if whole else 0.0

    @property
    def digest(self) -> str:
        """Hash of the selection; two runs with the same one have the same bag."""
        header = repr(self.selected.shape).encode()
        return "sha256:" + hashlib.sha256(header + np.packbits(self.selected).tobytes()).hexdigest()


def tissue_tiles(
    slide: Slide,
    grid: TileGrid,
    options: TissueOptions | None = None,
    mask: TissueMask | None = None,
) -> Tissue:
    """Select the tiles of ``grid`` that hold tissue.

    Parameters
    ----------
    slide, grid
        The slide and the grid laid on it.
    options
        How tissue is found; defaults of :class:`TissueOptions`.
    mask
        Replaces the automatic mask (from a Labels or Shapes layer, or a polygon file).

    Raises
    ------
    NoTissueError
        No tile reaches ``options.min_fraction``.
    SlideReadError
        The coarse picture cannot be read.
    """
    options = options or TissueOptions()
    if options.method == "none" and mask is None:
        fraction = np.ones(grid.shape, dtype=np.float32)
    else:
        fraction = (mask or tissue_mask(slide, options)).fraction(grid)
    selected = (fraction >= options.min_fraction) & (fraction > 0)
    if not selected.any():
        raise NoTissueError(
            f"no tissue: the fullest of {fraction.size} tiles is {fraction.max():.1%} tissue, "
            f"below the minimum of {options.min_fraction:.1%}; lower the minimum, give a mask or "
            "switch tissue detection off."
        )
    return Tissue(fraction, selected)


def tissue_mask(slide: Slide, options: TissueOptions | None = None) -> TissueMask:
    """Find tissue on a coarse picture of the slide's bounds.

    Stained tissue is more saturated than glass: a pixel is tissue where the HSV saturation of
    its colour, smoothed over 1.5 pixels, exceeds Otsu's threshold. Pen marks and black borders
    are left out, small pieces dropped and small holes filled.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.filters import threshold_otsu
    from skimage.morphology import remove_small_holes, remove_small_objects

    options = options or TissueOptions()
    mpp = slide.mpp
    wanted = options.resolution_um / max(mpp) if mpp else 0.0
    fits = wanted * MAX_SIDE_PX >= max(slide.bounds.shape)
    overview = read_overview(slide, wanted if fits else None, MAX_SIDE_PX)
    rgb = np.divide(overview.image, 255, dtype=np.float32)
    # Colours are smoothed, not saturation: noise only ever adds to saturation, and how noisy the
    # coarse picture is depends on how a file's levels were made.
    rgb = gaussian_filter(rgb, (1.5, 1.5, 0))
    excluded = _artefacts(rgb) if options.exclude_pen else np.zeros(rgb.shape[:2], dtype=bool)
    smooth = _saturation(rgb)
    threshold = options.saturation
    if threshold is None:
        usable = smooth[~excluded]
        otsu = float(threshold_otsu(usable)) if np.ptp(usable) > 0 else SATURATION_LIMITS[1]
        threshold = float(np.clip(otsu, *SATURATION_LIMITS))
    tissue = (smooth > threshold) & ~excluded
    pixel_um = overview.downsample * max(mpp) if mpp else options.resolution_um
    smallest = round(options.min_area_um2 / pixel_um**2)
    if smallest > 1:
        tissue = remove_small_objects(tissue, max_size=smallest - 1)
        tissue = remove_small_holes(tissue, max_size=smallest - 1) & ~excluded
    origin = (float(overview.origin_level0[0]), float(overview.origin_level0[1]))
    return TissueMask(tissue, origin, (overview.downsample, overview.downsample))


def _saturation(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """HSV saturation (max - min) / max of (h, w, 3) in 0..1."""
    high, low = rgb.max(axis=2), rgb.min(axis=2)
    return np.where(high > 0, (high - low) / np.maximum(high, 1e-6), 0).astype(np.float32)


def _artefacts(rgb: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Marker pen and black borders, widened by two pixels for their blurred rim.

    Haematoxylin and eosin keep red above green (purple to pink). Blue and green ink do not:
    saturated pixels whose red is the lowest channel. Black is dark in all channels.
    """
    from scipy.ndimage import binary_dilation
    from skimage.morphology import remove_small_objects

    red, green, blue = np.moveaxis(rgb, 2, 0)
    ink = (_saturation(rgb) > 0.35) & (red < np.minimum(green, blue) - 0.02)
    black = rgb.max(axis=2) < 0.25
    found = remove_small_objects(ink | black, max_size=64)
    return np.asarray(binary_dilation(found, iterations=2) if found.any() else found, dtype=bool)


def _interpolate(
    table: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bilinear value of a summed-area table at fractional (y, x), clamped to its edges."""
    y = np.clip(y, 0, table.shape[0] - 1)
    x = np.clip(x, 0, table.shape[1] - 1)
    y0 = np.minimum(y.astype(int), table.shape[0] - 2)
    x0 = np.minimum(x.astype(int), table.shape[1] - 2)
    fy, fx = y - y0, x - x0
    upper = table[y0, x0] * (1 - fx) + table[y0, x0 + 1] * fx
    lower = table[y0 + 1, x0] * (1 - fx) + table[y0 + 1, x0 + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy)

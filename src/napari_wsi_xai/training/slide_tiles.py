"""Tiles of tissue on slides, found once and read when they are needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_wsi_xai.errors import CohortError, WsiXaiError
from napari_wsi_xai.slides import open_slide
from napari_wsi_xai.tiles import TileGrid, read_tiles, tile_grid, tissue_tiles
from napari_wsi_xai.training.bag import Bag
from napari_wsi_xai.training.cohort import Case, Cohort
from napari_wsi_xai.training.nuclei import nucleus_tiles
from napari_wsi_xai.training.wording import listed

__all__ = ["SlideTiles", "find_tiles", "is_image", "tiles_of"]

BLOCK = 8
"""Tiles a side of what is read at once."""


@dataclass(frozen=True, eq=False)
class SlideTiles:
    """The tiles that make up a slide's bag; small and picklable, pixels are read on demand.

    Attributes
    ----------
    case
        The slide, or an image with marked nuclei.
    tile_px
        Edge of a tile.
    corners
        (n, 2) int64, yx, level-0 pixels.
    grid, index
        Where tiles lie: a grid, and (n, 2) row and column on it. None for tiles around nuclei.
    """

    case: Case
    tile_px: int
    corners: NDArray[np.int64]
    grid: TileGrid | None = None
    index: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.corners)

    @property
    def name(self) -> str:
        """Of the slide."""
        return self.case.slide

    @property
    def label(self) -> int:
        """Class of the slide."""
        return self.case.label

    @property
    def nbytes(self) -> int:
        """Memory that all tiles take."""
        return len(self) * 3 * self.tile_px**2 + self.corners.nbytes

    def bag(self, rows: NDArray[np.int64] | None = None) -> Bag:
        """A bag of pixels of all tiles, or of some."""
        corners = self.corners if rows is None else self.corners[rows]
        return Bag(self.read(rows), torch.from_numpy(corners), self.label, self.name)

    def read(self, rows: NDArray[np.int64] | None = None) -> Tensor:
        """Pixels (n, p, p, 3) uint8 of all tiles, or of some.

        Raises
        ------
        CohortError
            They cannot be read.
        """
        try:
            return torch.from_numpy(self._pixels(rows))
        except WsiXaiError as error:
            raise CohortError(f"tiles of {self.name} cannot be read: {error}") from error

    def _pixels(self, rows: NDArray[np.int64] | None) -> NDArray[np.uint8]:
        if self.grid is None or self.index is None:
            tiles, _, _ = nucleus_tiles(self.case.features, self.tile_px)
            return tiles if rows is None else tiles[rows]
        index = self.index if rows is None else self.index[rows]
        found = np.empty((len(index), self.tile_px, self.tile_px, 3), dtype=np.uint8)
        blocks, of = np.unique(index // BLOCK, axis=0, return_inverse=True)
        with open_slide(self.case.features, mpp=self.case.missing_mpp()) as slide:
            for number in range(len(blocks)):
                here = np.flatnonzero(of.ravel() == number)
                found[here] = read_tiles(slide, self.grid, index[here])
        return found

    def chunks(self, most: int) -> Iterator[Tensor]:
        """Pixels of all tiles in their order, at most so many at once."""
        for first in range(0, len(self), most):
            yield self.read(np.arange(first, min(first + most, len(self))))


def is_image(case: Case) -> bool:
    """Whether the case is an image whose nuclei are marked, and no slide."""
    return case.features.suffix.lower() == ".bmp"


def tiles_of(case: Case, tile_px: int, mpp: float) -> SlideTiles:
    """Tiles of a slide that hold tissue, block by block; those around the nuclei of an image.

    Raises
    ------
    WsiXaiError
        The slide cannot be read, its micrometres per pixel are not known, it has no tissue.
    """
    if is_image(case):
        _, corners, _ = nucleus_tiles(case.features, tile_px)
        if not len(corners):
            raise CohortError(f"{case.slide} has no marked nucleus.")
        return SlideTiles(case, tile_px, corners)
    with open_slide(case.features, mpp=case.missing_mpp()) as slide:
        grid = tile_grid(slide, tile_px, mpp)
        index = _as_scored(grid.indices(tissue_tiles(slide, grid).selected))
        return SlideTiles(case, tile_px, grid.origins_level0(index), grid, index)


def _as_scored(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tiles block by block, as runs give them to a head: to some heads the order matters."""
    rows, cols = index.T
    return index[np.lexsort((cols, rows, cols // BLOCK, rows // BLOCK))]


def find_tiles(
    cohort: Cohort,
    indices: Sequence[int],
    tile_px: int,
    mpp: float,
    tell: Callable[[int, int], None] | None = None,
) -> dict[int, SlideTiles]:
    """Tiles of some of a cohort's slides, by the case's index.

    ``tell`` is called after every slide with how many are done, and of how many.

    Raises
    ------
    CohortError
        Slides have none or cannot be read; the message names them with their reasons.
    """
    wanted = sorted(set(indices))
    others = [cohort.cases[i].slide for i in wanted if cohort.cases[i].kind != "slide"]
    if others:
        raise CohortError(
            f"{listed(others)}: only descriptors are at hand, and an encoder is trained on "
            "pixels: give the folder of the slides."
        )

    def attempt(index: int) -> SlideTiles | WsiXaiError:
        try:
            return tiles_of(cohort.cases[index], tile_px, mpp)
        except WsiXaiError as error:
            return error

    found: dict[int, SlideTiles | WsiXaiError] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for index, one in zip(wanted, pool.map(attempt, wanted), strict=True):
            found[index] = one
            if tell is not None:
                tell(len(found), len(wanted))
    failed = {i: one for i, one in found.items() if isinstance(one, WsiXaiError)}
    if failed:
        reasons = [f"{cohort.cases[i].slide} ({str(e).rstrip('.')})" for i, e in failed.items()]
        raise CohortError(
            f"{len(failed)} of {len(wanted)} slides cannot be trained on: {listed(reasons)}; mend "
            "them or leave them out."
        )
    return {i: one for i, one in found.items() if isinstance(one, SlideTiles)}

"""Small pictures of the tiles that a head looks at most, read from the slide."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import SlideError, WsiXaiWarning
from napari_wsi_xai.slides import open_slide
from napari_wsi_xai.tiles import read_tiles
from napari_wsi_xai.tiles.resample import resample_tiles
from napari_wsi_xai.training.epoch_arrays import WHITE, Thumbnails

if TYPE_CHECKING:
    from napari_wsi_xai.training.stored_slide import StoredSlide

__all__ = ["MOST_THUMBNAILS", "THUMBNAIL_PX", "TopTiles"]

MOST_THUMBNAILS = 5

THUMBNAIL_PX = 96

Cell = tuple[int, int]


class TopTiles:
    """Thumbnails of a slide's best tiles; a tile is read once as long as it stays among them.

    Parameters
    ----------
    slide
        The slide, of whose finest grid the tiles are.
    """

    def __init__(self, slide: StoredSlide) -> None:
        self.slide = slide
        self._kept: dict[Cell, NDArray[np.uint8]] = {}
        self._opens: bool | None = False if slide.source is None else None  # None: not tried yet
        self._warned = False

    def look(self, top: Sequence[Cell]) -> Thumbnails | None:
        """Pictures of the tiles at (row, column), best first.

        Returns
        -------
        (5, 96, 96, 3) uint8 RGB, white beyond the tiles that there are and where a tile cannot
        be read, which is told once; None where the slide cannot be opened at all.
        """
        wanted = [(int(row), int(column)) for row, column in top[:MOST_THUMBNAILS]]
        new = [cell for cell in wanted if cell not in self._kept]
        if new and self._opens is not False:
            self._read(new)
        if self._opens is False:
            return None
        self._kept = {cell: self._kept[cell] for cell in wanted if cell in self._kept}
        shown = np.full((MOST_THUMBNAILS, THUMBNAIL_PX, THUMBNAIL_PX, 3), WHITE, dtype=np.uint8)
        for rank, cell in enumerate(wanted):
            if cell in self._kept:
                shown[rank] = self._kept[cell]
        return shown

    def _read(self, cells: list[Cell]) -> None:
        """Read tiles; a slide that never opened is not tried again, one that did is."""
        assert self.slide.source is not None
        grid = self.slide.grids[-1]  # it knows its pixels; a slide without mpp will do
        try:
            with open_slide(self.slide.source) as slide:
                pixels = read_tiles(slide, grid, cells)
        except SlideError as error:
            self._opens = bool(self._opens)
            if self._opens and not self._warned:
                self._warned = True
                told = f"thumbnails of {self.slide.name} are missing: {error}"
                warnings.warn(told, WsiXaiWarning, stacklevel=2)
            return
        self._opens = True
        small = resample_tiles(pixels, (grid.tile_px, grid.tile_px), THUMBNAIL_PX)
        self._kept |= dict(zip(cells, small, strict=True))

"""Bags of tiles, not yet descriptors, for training end to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from napari_wsi_xai.training.bag import Bag, draw_rows, rows_of
from napari_wsi_xai.training.bags import BagDataset, Kept
from napari_wsi_xai.training.cohort import Cohort
from napari_wsi_xai.training.slide_tiles import SlideTiles

__all__ = ["TileBagDataset"]


class TileBagDataset(BagDataset):
    """Tiles of some of a cohort's slides, as uint8 pixels (N, p, p, 3).

    Parameters
    ----------
    cohort, indices, most_tiles, seed
        As :class:`~napari_wsi_xai.training.bags.BagDataset` takes them.
    slides
        Tiles of every slide of ``indices``.
    kept
        Where pixels are kept; may be shared by several data sets. Of slides that do not fit only
        the drawn tiles are read, again each time.
    whole
        Give slides that do not fit as :class:`~napari_wsi_xai.training.slide_tiles.SlideTiles`,
        to be read part by part.
    """

    def __init__(
        self,
        cohort: Cohort,
        indices: Sequence[int],
        most_tiles: int | None = None,
        seed: int = 0,
        *,
        slides: Mapping[int, SlideTiles],
        kept: Kept,
        whole: bool = False,
    ) -> None:
        super().__init__(cohort, indices, most_tiles, seed)
        self.slides = {index: slides[index] for index in self.indices}
        self.whole = whole
        self._kept = kept

    def __getitem__(self, place: int) -> Bag | SlideTiles:  # type: ignore[override]
        index = self.indices[place]
        slide = self.slides[index]
        rows = None
        if self.most_tiles is not None:
            rng = np.random.default_rng([self.seed, self.epoch, index])
            rows = draw_rows(len(slide), self.most_tiles, rng)
        bag = self._kept.bags.get(index)
        if bag is None and slide.nbytes <= self._kept.left:
            bag = slide.bag()
            self._kept.keep(index, bag)
        if bag is None:
            return slide if self.whole else slide.bag(rows)
        return bag if rows is None else rows_of(bag, [rows])

"""Bags of descriptors to train on, from whatever keeps a slide's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from napari_wsi_xai.errors import BadArgumentError, CohortError
from napari_wsi_xai.runs import Run, ZoomRun, open_run, read_feature_bag
from napari_wsi_xai.runs.features_io import FeatureBag
from napari_wsi_xai.runs.zoom_bags import Rows, nested_rows, pooled_rows, side_by_side_rows
from napari_wsi_xai.training.bag import Bag, MagnificationUse, draw_tiles
from napari_wsi_xai.training.cohort import Case, Cohort

__all__ = [
    "BUDGET_BYTES",
    "Bag",
    "BagDataset",
    "Kept",
    "MagnificationUse",
    "draw_tiles",
    "read_bag",
]

BUDGET_BYTES = 4 * 2**30
"""Most memory that a data set keeps bags in by default."""


def read_bag(case: Case, use: MagnificationUse = "single") -> Bag:
    """Read the descriptors of a slide as a head takes them.

    Parameters
    ----------
    case
        The slide; its features are a run store, an ``.h5`` or a ``.pt`` file.
    use
        ``MILModel.magnification_use`` of the head. From a run over several magnifications
        ``"single"`` takes the tiles of the finest; ``"zoom"`` a bag a magnification, where row
        ``i`` of one has its children in rows ``i * r`` to ``i * r + r - 1`` of the next;
        ``"pool"`` a bag a magnification; ``"concat"`` the finest tiles, each descriptor followed
        by those of the coarser tiles around it, as the run itself puts them.

    Returns
    -------
    Bag
        Tiles without a descriptor are left out; for ``"zoom"`` the whole coarsest tile around
        one, so that the bags stay nested.

    Raises
    ------
    CohortError
        The slide is not encoded yet or not wholly, no tile of it could be used, descriptors are
        not finite, or the head takes other magnifications than there are.
    StoreError
        The features cannot be read.
    """
    if case.kind == "slide":
        raise CohortError(f"{case.features} is a slide, not features of one: encode it first.")
    rows = _rows_of_run(case, use) if case.kind == "run" else _rows_of_file(case, use)
    if not all(len(features) for features, _ in rows):
        raise CohortError(f"no tile of {case.slide} ({case.features}) could be used: leave it out.")
    features = tuple(torch.from_numpy(part) for part, _ in rows)
    corners = [part for _, part in rows]
    coords = tuple(torch.from_numpy(part) for part in corners if part is not None)
    if use in ("single", "concat"):
        return Bag(features[0], coords[0] if coords else None, case.label, case.slide)
    return Bag(features, coords if len(coords) == len(rows) else None, case.label, case.slide)


def _rows_of_file(case: Case, use: MagnificationUse) -> list[Rows]:
    """Features that another tool extracted, at one magnification."""
    if use == "zoom":
        raise CohortError(
            f"{case.features} has tiles of one magnification, and the head looks into finer ones: "
            "encode the slide itself."
        )
    bag = read_feature_bag(case.features)
    features = np.ascontiguousarray(bag.features)
    if features.dtype not in (np.float16, np.float32):
        features = features.astype(np.float32)
    bad = int((~np.isfinite(features).all(axis=1)).sum())
    if bad:
        raise CohortError(
            f"{bad} of {len(features)} tiles in {case.features} have descriptors that are not "
            "finite: extract them again."
        )
    corners = bag.coords_level0
    return [(features, None if corners is None else np.ascontiguousarray(corners))]


def _rows_of_run(case: Case, use: MagnificationUse) -> list[Rows]:
    run = open_run(case.features)
    if not run.complete:
        raise CohortError(
            f"{case.features} holds {run.done} of {run.total} tiles: score {case.slide} again, "
            "which goes on from there."
        )
    if isinstance(run, ZoomRun):
        return _rows_of_zoom(run, case, use)
    if use in ("zoom", "concat"):
        raise CohortError(
            f"{case.features} has tiles of one magnification, and the head takes several: score "
            f"{case.slide} at all of them."
        )
    return [_rows_of_one(run)]


def _rows_of_one(run: Run) -> Rows:
    if len(run.failures) == run.total:
        return np.empty((0, 0), np.float32), np.empty((0, 2), np.int64)
    bag = FeatureBag.of(run)
    assert bag.coords_level0 is not None
    return bag.features, np.asarray(bag.coords_level0, dtype=np.int64)


def _rows_of_zoom(run: ZoomRun, case: Case, use: MagnificationUse) -> list[Rows]:
    if not run.exhaustive:
        raise CohortError(
            f"{case.features} holds only the tiles that its head opened: score {case.slide} with "
            "every tile of every magnification (exhaustive) to train on it."
        )
    if use == "single":
        return [_rows_of_one(run.levels[-1])]
    if use == "pool":
        return pooled_rows(run)
    return nested_rows(run) if use == "zoom" else [side_by_side_rows(run)]


@dataclass
class Kept:
    """Bags in memory, first come, first kept.

    Epochs go through all bags, so throwing out the one used longest ago would throw out the very
    one that comes next; whatever fits is kept for good instead.
    """

    budget: int
    used: int = 0

    def __post_init__(self) -> None:
        self.bags: dict[int, Bag] = {}

    @property
    def left(self) -> int:
        """Bytes that are not used yet."""
        return self.budget - self.used

    def keep(self, index: int, bag: Bag) -> None:
        """Keep a bag if it fits."""
        if bag.nbytes <= self.left:
            self.used += bag.nbytes
            self.bags[index] = bag


class BagDataset(Dataset[Bag]):
    """Bags of some of a cohort's slides, for a data loader with ``batch_size=None``.

    Parameters
    ----------
    cohort
        The slides.
    indices
        Those to take, in this order.
    most_tiles
        Most tiles of a bag and magnification; a random part of larger ones is drawn anew every
        epoch. All by default.
    seed
        Seed of the draws. What is drawn depends on it, on the epoch and on the case alone, not on
        order or workers.
    use
        As :func:`read_bag` takes it. Bags for ``"zoom"`` keep all descendants of the coarse tiles
        drawn.
    kept
        Where bags are kept in memory (in every worker); may be shared by several data sets of the
        same cohort and use. What fits first is kept, the rest is read again each time.
    """

    def __init__(
        self,
        cohort: Cohort,
        indices: Sequence[int],
        most_tiles: int | None = None,
        seed: int = 0,
        *,
        use: MagnificationUse = "single",
        kept: Kept | None = None,
    ) -> None:
        if most_tiles is not None and most_tiles < 1:
            raise BadArgumentError(f"most_tiles={most_tiles} must be at least 1.")
        if seed < 0:
            raise BadArgumentError(f"seed={seed} must be at least 0.")
        self.cohort = cohort
        self.indices = tuple(int(index) for index in indices)
        self.most_tiles = most_tiles
        self.seed = seed
        self.use = use
        self._kept = Kept(BUDGET_BYTES) if kept is None else kept
        # Shared, so that workers that outlive an epoch see the next one's number.
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """The epoch whose tiles are drawn."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw the tiles of this epoch from now on, in every worker."""
        self._epoch.fill_(epoch)

    @property
    def kept_bytes(self) -> int:
        """Memory that bags are kept in, in this process."""
        return self._kept.used

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is not forked gets no copy of all bags, but fills its own memory.
        return {**self.__dict__, "_kept": Kept(self._kept.budget)}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Bag:
        index = self.indices[place]
        bag = self._kept.bags.get(index)
        if bag is None:
            bag = read_bag(self.cohort.cases[index], self.use)
            self._kept.keep(index, bag)
        if self.most_tiles is None:
            return bag
        rng = np.random.default_rng([self.seed, self.epoch, index])
        return draw_tiles(bag, self.most_tiles, rng, nested=self.use == "zoom")

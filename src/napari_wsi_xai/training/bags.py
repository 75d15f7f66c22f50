"""Bags of descriptors to train on, from whatever keeps a slide's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.utils.data import Dataset

from napari_wsi_xai.training.cohort import Case, Cohort

__all__ = ["Bag", "BagDataset", "MagnificationUse", "read_bag"]

MagnificationUse = Literal["single", "zoom", "pool", "concat"]
"""As ``MILModel.magnification_use`` has it."""

BUDGET_BYTES = 4 * 2**30
"""Most memory that a data set keeps bags in by default."""


@dataclass(frozen=True, eq=False)
class Bag:
    """Descriptors of one slide, and its label.

    Attributes
    ----------
    features
        (N, D), or one such tensor a magnification, coarse to fine.
    coords_level0
        (N, 2) int64 corners of the tiles, yx, level-0 pixels, or one such tensor a magnification;
        None where they are not known (``.pt``).
    label
        The slide's class.
    name
        The slide's name.
    """

    features: Tensor | tuple[Tensor, ...]
    coords_level0: Tensor | tuple[Tensor, ...] | None
    label: int
    name: str


def read_bag(case: Case, use: MagnificationUse = "single") -> Bag:
    """Read the descriptors of a slide as a head with this ``magnification_use`` takes them."""
    raise NotImplementedError


class BagDataset(Dataset[Bag]):
    """Bags of some of a cohort's slides; ``set_epoch`` chooses the tiles drawn in this epoch."""

    def __init__(
        self,
        cohort: Cohort,
        indices: Sequence[int],
        most_tiles: int | None = None,
        seed: int = 0,
        *,
        use: MagnificationUse = "single",
        budget_bytes: int = BUDGET_BYTES,
    ) -> None:
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Draw the tiles of this epoch from now on, in every worker."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, place: int) -> Bag:
        raise NotImplementedError

"""The order in which bags come, told by seed and epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from napari_wsi_xai.errors import CohortError
from napari_wsi_xai.training.bags import Bag, BagDataset
from napari_wsi_xai.training.cohort import Cohort

__all__ = ["AlternatingSampler", "EpochSampler", "bag_loader", "class_weights"]


class EpochSampler(Sampler[int]):
    """Places of a data set in the order of an epoch.

    Parameters
    ----------
    count
        How many there are, and how many an epoch has.
    seed
        Seed of the orders.
    shares
        (count,) how often each comes, in proportion; drawn with replacement. ``None``: every
        place once, shuffled.
    """

    def __init__(self, count: int, seed: int, shares: Tensor | None = None) -> None:
        self.count, self.seed, self.shares = count, seed, shares
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Give the order of this epoch from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        random = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        if self.shares is None:
            order = torch.randperm(self.count, generator=random)
        else:
            order = torch.multinomial(self.shares, self.count, replacement=True, generator=random)
        return iter(order.tolist())


class AlternatingSampler(EpochSampler):
    """Places of a data set, its classes in turn.

    Every place comes at least once. Smaller classes are gone through again, shuffled anew, until
    all have come as often as the largest: any C bags in a row from a multiple of C on are one of
    each of the C classes.

    Parameters
    ----------
    labels
        Class of every place.
    seed
        Seed of the orders.
    """

    def __init__(self, labels: Sequence[int], seed: int) -> None:
        classes = sorted(set(labels))
        self.groups = [[n for n, one in enumerate(labels) if one == label] for label in classes]
        self.most = max(len(group) for group in self.groups)
        super().__init__(self.most * len(classes), seed)

    def __iter__(self) -> Iterator[int]:
        random = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        turns = []
        for group in self.groups:
            times = ceil(self.most / len(group))
            orders = [torch.randperm(len(group), generator=random) for _ in range(times)]
            turns.append(torch.tensor(group)[torch.cat(orders)[: self.most]])
        return iter(torch.stack(turns, dim=1).flatten().tolist())


def mixed_seed(seed: int, epoch: int) -> int:
    """A seed for one epoch of a training, the same whatever came before it."""
    return (seed * 1_000_003 + epoch * 7_919 + 17) % 2**63


def class_weights(cohort: Cohort, indices: Sequence[int]) -> Tensor:
    r"""Weight of each class (C,), :math:`n / (C n_c)`: mean 1 over the slides.

    Raises
    ------
    CohortError
        A class has no slide among ``indices``.
    """
    counts = cohort.counts(indices)
    none = [name for name, count in counts.items() if not count]
    if none:
        raise CohortError(
            f"there is no slide of {', '.join(none)} to train on: every class needs at least 1."
        )
    total = sum(counts.values())
    return torch.tensor([total / (len(counts) * count) for count in counts.values()])


def bag_loader(
    bags: BagDataset,
    sampler: EpochSampler | None = None,
    workers: int = 0,
    together: int | None = None,
) -> DataLoader[Bag]:
    """A loader of one bag at a time, or of lists of bags that make a step together.

    It draws nothing from the global random numbers.
    """
    return DataLoader(
        bags,
        batch_size=together,
        collate_fn=None if together is None else list,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(0),
    )

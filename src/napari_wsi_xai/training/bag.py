"""One bag to train on: descriptors or pixels of a slide's tiles, and its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Bag", "MagnificationUse", "draw_rows", "draw_tiles", "rows_of"]

MagnificationUse = Literal["single", "zoom", "pool", "concat"]
"""As ``MILModel.magnification_use`` has it."""


@dataclass(frozen=True, eq=False)
class Bag:
    """Descriptors of one slide, and its label.

    Attributes
    ----------
    features
        (N, D), or one such tensor a magnification, coarse to fine; to train end to end pixels
        (N, p, p, 3) uint8.
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

    @property
    def tiles(self) -> int:
        """Number of tiles, at all magnifications."""
        return sum(len(part) for part in _parts(self.features))

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the tensors take."""
        coords = () if self.coords_level0 is None else self.coords_level0
        parts = [*_parts(self.features), *_parts(coords)]
        return sum(part.numel() * part.element_size() for part in parts)


def draw_tiles(bag: Bag, most: int, rng: np.random.Generator, nested: bool = False) -> Bag:
    """A bag of at most ``most`` tiles drawn without replacement, in their order.

    Parameters
    ----------
    bag
        What to draw from.
    most
        Most tiles of a magnification.
    rng
        Random numbers.
    nested
        Every magnification holds the children of all tiles before it: coarse tiles are drawn, as
        many as keep the finest magnification to ``most`` tiles but at least one, with all their
        descendants. Otherwise every magnification is drawn from by itself.
    """
    if isinstance(bag.features, Tensor):
        chosen = draw_rows(len(bag.features), most, rng)
        return bag if chosen is None else rows_of(bag, [chosen])
    sizes = [len(part) for part in bag.features]
    if not nested:
        drawn = [draw_rows(size, most, rng) for size in sizes]
        rows = [np.arange(n) if r is None else r for n, r in zip(sizes, drawn, strict=True)]
        return rows_of(bag, rows) if any(r is not None for r in drawn) else bag
    coarse = draw_rows(sizes[0], max(1, most // (sizes[-1] // sizes[0])), rng)
    if coarse is None:
        return bag
    each = [size // sizes[0] for size in sizes]
    return rows_of(bag, [(coarse[:, None] * n + np.arange(n)).ravel() for n in each])


def draw_rows(count: int, most: int, rng: np.random.Generator) -> np.ndarray | None:
    """Rows of a bag of ``count`` tiles to keep, ascending; None for all."""
    return None if count <= most else np.sort(rng.choice(count, most, replace=False))


def rows_of(bag: Bag, rows: Sequence[np.ndarray]) -> Bag:
    """A bag of these rows of each magnification."""
    index = [torch.from_numpy(chosen) for chosen in rows]

    def keep(value: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        if isinstance(value, Tensor):
            return value[index[0]]
        return tuple(part[chosen] for part, chosen in zip(value, index, strict=True))

    coords = None if bag.coords_level0 is None else keep(bag.coords_level0)
    return replace(bag, features=keep(bag.features), coords_level0=coords)


def _parts(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else value

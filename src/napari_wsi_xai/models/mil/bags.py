"""Bags of several magnifications, checked with errors that say which one is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from napari_wsi_xai.errors import ModelError
from napari_wsi_xai.models.mil.base import MILModel

__all__ = ["Bags", "check_bags", "children_per_tile"]

Bags = Tensor | Sequence[Tensor]
"""One bag (N, D), or a list of bags, one a magnification, coarse to fine."""


def check_bags(head: MILModel, bags: Bags) -> list[Tensor]:
    """Bags of every magnification in the parameters' float type.

    Raises
    ------
    ModelError
        Another number of bags than the head has magnifications, or one that
        :meth:`MILModel.check_bag` refuses.
    """
    given: list[Any] = list(bags) if isinstance(bags, list | tuple) else [bags]
    count = head.num_magnifications
    if len(given) != count:
        raise ModelError(
            f"{len(given)} bag(s) do not fit: this {head.architecture} head takes {count}, one a "
            "magnification, coarse to fine."
        )
    if count == 1:
        return [head.check_bag(given[0])]
    checked = []
    for number, bag in enumerate(given, 1):
        try:
            checked.append(head.check_bag(bag))
        except ModelError as error:
            raise ModelError(
                f"magnification {number} of {count}, coarse to fine: {error}"
            ) from error
    return checked


def children_per_tile(parents: int, children: int, number: int) -> int:
    """How many tiles of magnification ``number`` + 1 lie in each tile of ``number`` (from 1).

    Raises
    ------
    ModelError
        Not the same whole number for every tile.
    """
    if children % parents:
        raise ModelError(
            f"{children} tiles of magnification {number + 1} cannot be shared out evenly among "
            f"{parents} tiles of magnification {number}: give every child of each of them, tile "
            "after tile."
        )
    return children // parents

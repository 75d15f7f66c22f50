"""What a head that zooms did at each magnification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from napari_wsi_xai.models.mil.base import MILOutput

__all__ = ["ZoomLevel", "ZoomOutput", "gather_levels"]


@dataclass
class ZoomLevel:
    """What happened at one magnification.

    Attributes
    ----------
    looked
        (n,) int64, rows of the given bag that were looked at.
    tile_scores
        (n, 1) main attention logits.
    attention
        (n, 1) their softmax over the n tiles.
    selection
        (n, 1) softmax of the auxiliary attention, which decided what was opened; ``None`` at the
        finest magnification.
    opened
        (m,) int64, ascending: rows of the given bag whose children were looked at next; empty at
        the finest magnification.
    """

    looked: Tensor
    tile_scores: Tensor
    attention: Tensor
    selection: Tensor | None
    opened: Tensor


@dataclass
class ZoomOutput(MILOutput):
    """What the head says about one slide.

    ``tile_scores`` and ``attention`` are (N1 + N2 + ..., M): the rows are the tiles of all bags,
    coarse to fine, and column m belongs to magnification m. For tiles of other magnifications, and
    for those not looked at, scores are NaN and attention 0.

    Attributes
    ----------
    levels
        One :class:`ZoomLevel` a magnification, coarse to fine.
    """

    levels: tuple[ZoomLevel, ...]


def gather_levels(levels: Sequence[ZoomLevel], lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Scores and attention of every magnification as columns: two of (sum of lengths, M).

    ``lengths`` are the numbers of tiles of the bags that the levels' rows count in.
    """
    first = levels[0].tile_scores
    scores = first.new_full((sum(lengths), len(levels)), torch.nan)
    attention = torch.zeros_like(scores)
    start = 0
    for column, (level, length) in enumerate(zip(levels, lengths, strict=True)):
        scores[start + level.looked, column] = level.tile_scores[:, 0]
        attention[start + level.looked, column] = level.attention[:, 0]
        start += length
    return scores, attention

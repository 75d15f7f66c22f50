"""From stored features to a slide's decision, in bounded memory where the head allows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from napari_wsi_xai.models import MILModel, MILOutput

__all__ = ["evaluate_bag"]

EMPTY = "no tile of the slide could be used, so there is nothing to decide."

FeatureBlocks = Callable[[], Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]]
"""Yields (features (n, N), corners_level0 (n, 2) yx) of one block after the other."""


def evaluate_bag(head: MILModel, blocks: FeatureBlocks) -> MILOutput:
    """Run a MIL head over a bag that comes block by block.

    Heads whose scores depend on one tile each are run as a stream: scores block by block, then
    the aggregation, whose weighted sums are again taken block by block. Others get the whole bag.
    The order of ``blocks`` decides the order of tiles in the result, and its last bits.

    Raises
    ------
    RunError
        The bag is empty.
    """
    import torch

    from napari_wsi_xai.models import MILOutput

    with torch.inference_mode():
        if not head.scores_per_tile or head.pooling == "bag":
            return _whole_bag(head, blocks)
        scores = [head.score_tiles(head.check_bag(torch.from_numpy(bag))) for bag, _ in blocks()]
        if not scores:
            raise RunError(EMPTY)
        tile_scores = torch.cat(scores)
        attention: Tensor | None
        if head.pooling == "weighted-sum":
            attention = weights = head.weigh(tile_scores)
            parts = torch.split(weights, [len(part) for part in scores])
            descriptor = _weighted_sum(head, parts, blocks)
        else:
            descriptor, attention = head.aggregate(tile_scores, None)
        return MILOutput(head.decide(descriptor), tile_scores, attention, descriptor)


def _weighted_sum(head: MILModel, weights: Sequence[Tensor], blocks: FeatureBlocks) -> Tensor:
    """Sum over tiles of weights (n, K) times projections (n, L), branch after branch: (K * L,)."""
    import torch

    total: Tensor | None = None
    for part, (features, _) in zip(weights, blocks(), strict=True):
        share = part.T @ head.project(head.check_bag(torch.from_numpy(features)))
        total = share if total is None else total + share
    assert total is not None
    return total.flatten()


def _whole_bag(head: MILModel, blocks: FeatureBlocks) -> MILOutput:
    import torch

    pieces = list(blocks())
    if not pieces:
        raise RunError(EMPTY)
    features = torch.from_numpy(np.concatenate([piece[0] for piece in pieces]))
    corners = torch.from_numpy(np.concatenate([piece[1] for piece in pieces]))
    output: MILOutput = head(features, corners)
    return output

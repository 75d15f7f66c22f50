"""CHOWDER: the largest and smallest tile scores decide (Courtiol et al. 2018, arXiv 1802.02212)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil.base import MILModel

__all__ = ["CHOWDER", "EXTREME_ORDERS", "extreme_scores"]

EXTREME_ORDERS = ("bottom-top", "top-bottom")
"""How the extremes are laid out for the decision; checkpoints need the one they were trained with.

``"bottom-top"``: R smallest ascending, then R largest ascending. ``"top-bottom"``: R largest
descending, then R smallest ascending.
"""


def extreme_scores(scores: Tensor, n_extreme: int, order: str = "bottom-top") -> Tensor:
    """R largest and R smallest of the scores (N,), as (2 R,) in one of :data:`EXTREME_ORDERS`.

    Below 2 R tiles the two halves overlap. Below R tiles the bag is repeated until it holds R: the
    extremes of a bag do not change when each of its tiles is there several times.
    """
    count = scores.shape[0]
    if count < n_extreme:
        scores = scores.repeat(math.ceil(n_extreme / count))
    ascending = torch.sort(scores, stable=True).values
    smallest, largest = ascending[:n_extreme], ascending[-n_extreme:]
    if order == "bottom-top":
        return torch.cat([smallest, largest])
    return torch.cat([largest.flip(0), smallest])


class CHOWDER(MILModel):
    r"""Extreme scores of a 1 x 1 convolution, decided by a small perceptron.

    .. math::
        s_{ij} &= w^T d_{ij} \quad (\text{no bias}) \\
        D_i &= [s_{i(1)}, ..., s_{i(R)}, s_{i(N-R+1)}, ..., s_{i(N)}] \in R^{2R}
        \quad \text{sorted scores} \\
        P_i &= W_3\, \sigma(W_2\, \sigma(W_1 D_i + b_1) + b_2) + b_3

    The slide descriptor is the list of extremes itself, in the given ``order``. A bag of fewer
    than R tiles is repeated until it holds R (see :func:`extreme_scores`).

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`.
    n_extreme
        R, the number of scores taken from each end.
    order
        One of :data:`EXTREME_ORDERS`; published versions differ.
    hidden
        Lengths of the perceptron's hidden layers.
    dropout
        Probability with which entries of the hidden layers are dropped in training.
    """

    architecture = "chowder"
    score_kind = "1x1 score"
    pooling = "scores"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        single_logit: bool = False,
        n_extreme: int = 5,
        order: str = "bottom-top",
        hidden: Sequence[int] = (200, 100),
        dropout: float = 0.5,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            single_logit,
            n_extreme=n_extreme,
            order=order,
            hidden=list(hidden),
            dropout=dropout,
        )
        if n_extreme < 1:
            raise BadArgumentError(f"n_extreme={n_extreme} must be at least 1.")
        if order not in EXTREME_ORDERS:
            raise BadArgumentError(f"order={order!r} must be one of {', '.join(EXTREME_ORDERS)}.")
        self.n_extreme = n_extreme
        self.order = order
        self.score = nn.Linear(in_features, 1, bias=False)
        layers: list[nn.Module] = []
        for before, after in pairwise([2 * n_extreme, *hidden]):
            layers += [nn.Linear(before, after), nn.Sigmoid(), nn.Dropout(dropout)]
        last = hidden[-1] if hidden else 2 * n_extreme
        self.mlp = nn.Sequential(*layers, nn.Linear(last, self.num_logits))

    def score_tiles(self, features: Tensor, coords_level0: Tensor | None = None) -> Tensor:
        """(N, D) to one score a tile (N, 1)."""
        return self.score(features)  # type: ignore[no-any-return]

    def aggregate(
        self, tile_scores: Tensor, features: Tensor | None, coords_level0: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The extremes (2 R,); no attention."""
        return extreme_scores(tile_scores[:, 0], self.n_extreme, self.order), None

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """Perceptron: (2 R,) to (C,)."""
        return self.mlp(slide_descriptor)  # type: ignore[no-any-return]

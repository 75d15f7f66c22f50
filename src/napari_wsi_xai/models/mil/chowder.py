"""CHOWDER: the largest and smallest tile scores decide (Courtiol et al. 2018, arXiv 1802.02212)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil.arguments import check_whole
from napari_wsi_xai.models.mil.base import MILModel

__all__ = ["CHOWDER", "EXTREME_ORDERS", "extreme_scores", "weldon_pool"]

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
    _check_extremes(n_extreme, order)
    if scores.ndim != 1 or len(scores) == 0:
        raise BadArgumentError(
            f"scores of shape {tuple(scores.shape)} must be (number of tiles,), at least 1 tile."
        )
    count = scores.shape[0]
    if count < n_extreme:
        scores = scores.repeat(math.ceil(n_extreme / count))
    ascending = torch.sort(scores, stable=True).values
    smallest, largest = ascending[:n_extreme], ascending[-n_extreme:]
    if order == "bottom-top":
        return torch.cat([smallest, largest])
    return torch.cat([largest.flip(0), smallest])


def _check_extremes(n_extreme: int, order: str) -> None:
    check_whole(1, n_extreme=n_extreme)
    if order not in EXTREME_ORDERS:
        raise BadArgumentError(f"order={order!r} must be one of {', '.join(EXTREME_ORDERS)}.")


def weldon_pool(scores: Tensor, kmax: float, kmin: float = 0) -> Tensor:
    r"""Min-max pooling of WELDON (Durand, Thome, Cord: CVPR 2016), scores (..., N) to (...).

    .. math::
        \frac{1}{2} \left( \frac{1}{k_+} \sum_{i \le k_+} s_{(N+1-i)}
        + \frac{1}{k_-} \sum_{i \le k_-} s_{(i)} \right)

    without the second term and the half where :math:`k_- \le 0`. A number below 1 is a fraction of
    the N scores, rounded; what is asked for above N is cut to N, below one score to one.
    """
    if kmax <= 0:
        raise BadArgumentError(f"kmax={kmax} must be above 0.")
    if scores.numel() == 0:
        raise BadArgumentError(f"scores of shape {tuple(scores.shape)} hold none to pool.")
    ascending = torch.sort(scores, dim=-1, stable=True).values
    largest, smallest = (_share(k, scores.shape[-1]) for k in (kmax, kmin))
    top = ascending[..., ascending.shape[-1] - largest :].mean(dim=-1)
    return top if smallest == 0 else (top + ascending[..., :smallest].mean(dim=-1)) / 2


def _share(k: float, count: int) -> int:
    """How many of ``count`` scores ``k`` stands for."""
    wanted = round(k * count) if k < 1 else int(k)
    return 0 if k <= 0 else min(max(wanted, 1), count)


class CHOWDER(MILModel):
    r"""Extreme scores of a 1 x 1 convolution, decided by a small perceptron.

    .. math::
        s_{ij} &= w^T d_{ij} \quad (\text{no bias}) \\
        D_i &= [s_{i(1)}, ..., s_{i(R)}, s_{i(N-R+1)}, ..., s_{i(N)}] \in R^{2R}
        \quad \text{sorted scores} \\
        P_i &= W_3\, \sigma(W_2\, \sigma(W_1 D_i + b_1) + b_2) + b_3

    The slide descriptor is the list of extremes itself, in the given ``order``. A bag of fewer
    than R tiles is repeated until it holds R (see :func:`extreme_scores`).

    Later versions score tiles with a perceptron of their own, ``score_hidden``, with biases. With
    ``weldon`` a biased linear map gives every tile C scores, and :func:`weldon_pool` of them is
    slide descriptor and logits in one; ``n_extreme``, ``order``, ``hidden`` and ``dropout`` then
    mean nothing.

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
    score_hidden
        Lengths of hidden layers, with sigmoids, between descriptor and score; none in the paper.
    weldon
        (kmax, kmin) of :func:`weldon_pool` in place of extremes and perceptron.
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
        score_hidden: Sequence[int] = (),
        weldon: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            single_logit,
            n_extreme=n_extreme,
            order=order,
            hidden=list(hidden),
            dropout=dropout,
            score_hidden=list(score_hidden),
            weldon=None if weldon is None else list(weldon),
        )
        _check_extremes(n_extreme, order)
        check_whole(1, hidden=list(hidden), score_hidden=list(score_hidden))
        if weldon is not None and not (len(weldon) == 2 and weldon[0] > 0 and weldon[1] >= 0):
            raise BadArgumentError(f"weldon={tuple(weldon)} must be (kmax > 0, kmin >= 0) or None.")
        logits = self.num_logits
        self.n_extreme = n_extreme
        self.order = order
        self.weldon = weldon
        if weldon is None and not score_hidden:
            self.score: nn.Module = nn.Linear(in_features, 1, bias=False)
        else:
            self.score = _scorer([in_features, *score_hidden], 1 if weldon is None else logits)
        if weldon is None:
            self.mlp = _perceptron([2 * n_extreme, *hidden], logits, dropout)

    def score_tiles(self, features: Tensor, coords_level0: Tensor | None = None) -> Tensor:
        """(N, D) to one score a tile (N, 1), or class scores (N, C) with ``weldon``."""
        return self.score(features)  # type: ignore[no-any-return]

    def aggregate(
        self, tile_scores: Tensor, features: Tensor | None, coords_level0: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The extremes (2 R,), or pooled scores (C,) with ``weldon``; no attention."""
        if self.weldon is not None:
            return weldon_pool(tile_scores.T, *self.weldon), None
        return extreme_scores(tile_scores[:, 0], self.n_extreme, self.order), None

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """Perceptron: (2 R,) to (C,); with ``weldon`` the pooled scores are the decision."""
        return slide_descriptor if self.weldon is not None else self.mlp(slide_descriptor)


def _scorer(lengths: Sequence[int], scores: int) -> nn.Module:
    """Descriptor to scores, with a sigmoid after every hidden layer."""
    layers: list[nn.Module] = []
    for before, after in pairwise(lengths):
        layers += [nn.Linear(before, after), nn.Sigmoid()]
    last = nn.Linear(lengths[-1], scores)
    return nn.Sequential(*layers, last) if layers else last


def _perceptron(lengths: Sequence[int], logits: int, dropout: float) -> nn.Sequential:
    """Extremes to logits, with a sigmoid and dropout after every hidden layer."""
    layers: list[nn.Module] = []
    for before, after in pairwise(lengths):
        layers += [nn.Linear(before, after), nn.Sigmoid(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(lengths[-1], logits))

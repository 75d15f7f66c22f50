"""MS-DA-MIL: one attention over the tiles of several magnifications (Hashimoto et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil.arguments import check_whole
from napari_wsi_xai.models.mil.bags import Bags, check_bags
from napari_wsi_xai.models.mil.base import MILOutput
from napari_wsi_xai.models.mil.projected import ProjectedMIL

__all__ = ["MSMIL", "adaptive_grad_reverse", "domain_strength", "fuse_bags"]


class MSMIL(ProjectedMIL):
    r"""Attention pooling of the tiles of all magnifications together.

    .. math::
        h_j &= \mathrm{ReLU}(W_2\, \mathrm{ReLU}(W_1 d_j + b_1) + b_2), \qquad
        s_j = w^T \tanh(V h_j + b_V) + b_w \\
        a &= \mathrm{softmax}(s) \;\text{over the tiles of every magnification}, \qquad
        D_i = \sum_j a_j h_j, \qquad P_i = W_c D_i + b_c

    The head takes a list of bags, coarse to fine, and puts them one after the other; a single
    tensor is a bag put together already. Rows of scores and attention follow in that order. The
    authors score a slide by many bags of drawn tiles, :func:`fuse_bags`; their heat map is the
    attention divided by its largest value.

    In the first of their two stages, at one magnification, a branch that tells slides apart is
    trained against the descriptors, :func:`adaptive_grad_reverse`. It has no part in the decision
    and is no part of this head.

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`.
    projection
        Lengths of the layers of the projection; the last is that of h.
    attention
        Length of the attention's hidden layer.
    num_magnifications
        How many bags a list holds; 1 is DA-MIL, the authors' head for one magnification.
    """

    architecture = "msmil"
    magnification_use: Literal["single", "zoom", "pool", "concat"] = "pool"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        single_logit: bool = False,
        projection: Sequence[int] = (2048, 512),
        attention: int = 128,
        num_magnifications: int = 2,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            single_logit,
            projection=list(projection),
            attention=attention,
            num_magnifications=num_magnifications,
        )
        if not projection:
            raise BadArgumentError("projection=[] must be at least one length of at least 1.")
        check_whole(1, projection=list(projection))
        check_whole(1, attention=attention, num_magnifications=num_magnifications)
        self.num_magnifications = num_magnifications
        if num_magnifications == 1:
            self.magnification_use = "single"
        layers: list[nn.Module] = []
        for before, after in pairwise([in_features, *projection]):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.projection = nn.Sequential(*layers)
        self.attention_V = nn.Linear(projection[-1], attention)
        self.attention_w = nn.Linear(attention, 1)
        self.classifier = nn.Linear(projection[-1], self.num_logits)

    def pool_bags(self, features: Bags) -> Tensor:
        """Bags of every magnification, checked, as one (N1 + N2 + ..., D)."""
        if isinstance(features, Tensor):
            return self.check_bag(features)
        return torch.cat(check_bags(self, features))

    def project(self, features: Tensor) -> Tensor:
        """Descriptors (N, D) to projections (N, L)."""
        return self.projection(features)  # type: ignore[no-any-return]

    def score_projected(self, projected: Tensor) -> Tensor:
        """Projections (N, L) to attention logits (N, 1)."""
        return self.attention_w(torch.tanh(self.attention_V(projected)))  # type: ignore[no-any-return]

    def score_tiles(self, features: Bags, coords_level0: Bags | None = None) -> Tensor:
        """One bag or one a magnification to attention logits (N1 + N2 + ..., 1)."""
        return super().score_tiles(self.pool_bags(features))

    def aggregate(
        self, tile_scores: Tensor, features: Bags | None, coords_level0: Bags | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scores (N1 + N2 + ..., 1) and bags to (slide descriptor (L,), attention like scores)."""
        assert features is not None
        return super().aggregate(tile_scores, self.pool_bags(features))

    def forward(self, features: Bags, coords_level0: Bags | None = None) -> MILOutput:
        """One bag (N, D) or a list of one a magnification, coarse to fine; no places are needed.

        Raises
        ------
        ModelError
            As :meth:`MILModel.forward`, and another number of bags than magnifications.
        """
        return super().forward(self.pool_bags(features))

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """Linear classifier: (L,) to (C,)."""
        return self.classifier(slide_descriptor)  # type: ignore[no-any-return]


def fuse_bags(bag_probabilities: Tensor) -> Tensor:
    r"""Class probabilities of B bags of a slide (B, C) to scores of the slide (C,).

    .. math:: P_c = \exp\left(\frac{1}{B} \sum_b \log p_{bc}\right)

    The geometric means of the classes do not sum to one, and are not made to.
    """
    if bag_probabilities.ndim != 2 or len(bag_probabilities) == 0:
        raise BadArgumentError(
            f"bag_probabilities of shape {tuple(bag_probabilities.shape)} must be (number of bags, "
            "number of classes), at least 1 bag."
        )
    if not ((bag_probabilities >= 0) & (bag_probabilities <= 1)).all():
        low, high = (float(value) for value in torch.aminmax(bag_probabilities))
        raise BadArgumentError(
            f"bag_probabilities from {low:g} to {high:g} must be from 0 to 1: take those of "
            "MILModel.probabilities."
        )
    return bag_probabilities.log().mean(dim=0).exp()


def domain_strength(progress: float) -> float:
    r"""How strongly gradients are reversed, :math:`\lambda = 2 / (1 + e^{-10 p}) - 1`.

    ``progress`` p is the share of the training that is done, 0 to 1, times the authors' DArate.
    """
    return 2 / (1 + math.exp(-10 * progress)) - 1


def adaptive_grad_reverse(features: Tensor, attention: Tensor, strength: float) -> Tensor:
    r"""Descriptors (N, F) as they are, with gradients reversed where attention is low.

    .. math::
        \frac{\partial L}{\partial d_j} = -\lambda\, (\max_l a_l - a_j)\, g_j

    with g the gradient that arrives: what matters for the class keeps what tells slides apart.

    Parameters
    ----------
    features
        (N, F).
    attention
        N weights, in any shape; no gradient reaches them.
    strength
        :math:`\lambda`, see :func:`domain_strength`.
    """
    if attention.numel() != len(features):
        raise BadArgumentError(
            f"attention of {attention.numel()} weights does not fit {len(features)} descriptors: "
            "one weight for each is needed."
        )
    reversed_: Tensor = _AdaptiveGradReverse.apply(features, attention.detach(), strength)  # type: ignore[no-untyped-call]
    return reversed_


class _AdaptiveGradReverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, attention: Tensor, strength: float) -> Tensor:
        weights = attention.reshape(-1, 1)
        ctx.save_for_backward(weights.max() - weights)
        ctx.strength = float(strength)
        return features.view_as(features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (distance,) = ctx.saved_tensors
        return -ctx.strength * distance * gradient, None, None

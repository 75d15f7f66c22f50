"""DTFD-MIL: pseudo-bags in two tiers (Zhang et al., CVPR 2022, arXiv 2203.12081)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil.arguments import check_whole
from napari_wsi_xai.models.mil.base import MILModel
from napari_wsi_xai.models.mil.gated_attention import GatedAttention
from napari_wsi_xai.models.mil.projected import ProjectedMIL

__all__ = ["DISTILLATIONS", "DTFD"]

DISTILLATIONS = ("afs", "maxs", "maxmins")
"""What a pseudo-bag hands to the second tier: its attended sum, its strongest tiles, or its
strongest and its weakest."""


class _ResidualBlock(nn.Module):
    """x + ReLU(W2 ReLU(W1 x))."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.first = nn.Linear(length, length, bias=False)
        self.second = nn.Linear(length, length, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu_(self.second(torch.relu_(self.first(x))))


class DTFD(ProjectedMIL):
    r"""Gated attention within pseudo-bags, then over what they distil.

    .. math::
        h_{ij} &= ReLU(W d_{ij}), \qquad s_{ij} = w^T [\tanh(V h) \odot \sigma(U h)] + b \\
        a_{ij} &= \frac{\exp s_{ij}}{\sum_{l \in g(j)} \exp s_{il}}, \qquad
        f_{ig} = \sum_{j \in g} a_{ij} h_{ij} \\
        D_i &= \sum_r b_{ir} e_{ir}, \qquad P_i = W_c D_i + b_c

    :math:`g(j)` is the pseudo-bag of tile j, :math:`e_{ir}` are the distilled descriptors and
    :math:`b_{ir}` the softmax of a second gated attention over them. With ``"afs"`` they are the
    :math:`f_{ig}`. With ``"maxs"`` and ``"maxmins"`` they are the :math:`h_{ij}` of the tiles of
    each pseudo-bag whose attended class activation :math:`W_1 a_{ij} h_{ij}` gives the last class
    the largest (and smallest) probability; :math:`W_1` is the first tier's classifier.

    The attention is the weight of each tile in the slide descriptor and sums to one. Pseudo-bags
    are drawn with ``seed``, so that results repeat; in training mode they are drawn anew each
    time. Which tiles share one depends on their order in the bag.

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`.
    hidden
        Length of h.
    attention
        Length of the attentions' hidden layers.
    groups
        Number of pseudo-bags; a smaller bag has one a tile.
    distillation
        One of ``"afs"``, ``"maxs"``, ``"maxmins"``.
    per_group
        Tiles taken from each end of a pseudo-bag.
    residual_blocks
        Blocks :math:`h \leftarrow h + ReLU(W_b ReLU(W_a h))` after the projection.
    dropout
        Probability with which entries are dropped before the classifiers in training.
    seed
        Of the pseudo-bags.
    """

    architecture = "dtfd"
    pooling = "bag"
    weigh = MILModel.weigh  # a tile's weight depends on more than the scores

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        single_logit: bool = False,
        hidden: int = 512,
        attention: int = 128,
        groups: int = 4,
        distillation: str = "afs",
        per_group: int = 1,
        residual_blocks: int = 0,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            single_logit,
            hidden=hidden,
            attention=attention,
            groups=groups,
            distillation=distillation,
            per_group=per_group,
            residual_blocks=residual_blocks,
            dropout=dropout,
            seed=seed,
        )
        check_whole(1, hidden=hidden, attention=attention, groups=groups, per_group=per_group)
        check_whole(0, residual_blocks=residual_blocks, seed=seed)
        if seed >= 2**63:
            raise BadArgumentError(f"seed={seed} must be below 2**63.")
        if distillation not in DISTILLATIONS:
            raise BadArgumentError(
                f"distillation={distillation!r} must be one of {', '.join(DISTILLATIONS)}."
            )
        self.groups, self.distillation, self.per_group = groups, distillation, per_group
        self.seed = seed
        self.reduce = nn.Linear(in_features, hidden, bias=False)
        self.residual_blocks = nn.Sequential(
            *(_ResidualBlock(hidden) for _ in range(residual_blocks))
        )
        self.tile_attention = GatedAttention(hidden, attention)
        self.pseudo_bag_classifier = nn.Linear(hidden, self.num_logits)
        self.distilled_attention = GatedAttention(hidden, attention)
        self.classifier = nn.Linear(hidden, self.num_logits)
        self.dropout = nn.Dropout(dropout)

    def project(self, features: Tensor) -> Tensor:
        """Descriptors (N, D) to h (N, hidden)."""
        return self.residual_blocks(torch.relu_(self.reduce(features)))  # type: ignore[no-any-return]

    def score_projected(self, projected: Tensor) -> Tensor:
        """H (N, hidden) to the first tier's attention logits (N, 1)."""
        return self.tile_attention(projected)  # type: ignore[no-any-return]

    def pseudo_bags(self, count: int) -> tuple[Tensor, ...]:
        """Rows of a bag of ``count`` tiles in each pseudo-bag; sizes differ by one at most."""
        random = None if self.training else torch.Generator().manual_seed(self.seed)
        order = torch.randperm(count, generator=random)
        return tuple(torch.tensor_split(order, min(self.groups, count)))

    def pseudo_bag_logits(self, features: Tensor) -> Tensor:
        """The first tier's decision on every pseudo-bag of a bag (N, D): (groups, C)."""
        projected = self.project(self.check_bag(features))
        scores = self.tile_attention(projected)
        bags = [bag.to(scores.device) for bag in self.pseudo_bags(len(scores))]
        sums = torch.stack([torch.softmax(scores[b, 0], dim=0) @ projected[b] for b in bags])
        return self.pseudo_bag_classifier(self.dropout(sums))  # type: ignore[no-any-return]

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """The second tier's linear classifier: (hidden,) to (C,)."""
        return self.classifier(self.dropout(slide_descriptor))  # type: ignore[no-any-return]

    def pool(self, tile_scores: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Slide descriptor (hidden,) and the weight of every tile in it (N, 1)."""
        bags = [bag.to(projected.device) for bag in self.pseudo_bags(len(projected))]
        shares, distilled = [], []
        for bag in bags:
            inside = projected[bag]
            share = self._distil(tile_scores[bag, 0], inside)
            shares.append(share)
            distilled.append(share.T @ inside)
        rows = torch.cat(distilled)
        weights = torch.softmax(self.distilled_attention(rows)[:, 0], dim=0)
        parts = torch.split(weights, [share.shape[1] for share in shares])
        drawn = torch.cat([share @ part for share, part in zip(shares, parts, strict=True)])
        attention = torch.zeros_like(drawn).index_copy(0, torch.cat(bags), drawn)
        return weights @ rows, attention[:, None]

    def _distil(self, scores: Tensor, inside: Tensor) -> Tensor:
        """Share of each tile of a pseudo-bag (n, L) in what it distils, (n, number distilled)."""
        weights = torch.softmax(scores, dim=0)
        if self.distillation == "afs":
            return weights[:, None]
        order = self._evidence(weights, inside).argsort(descending=True, stable=True)
        taken = order[: self.per_group]
        if self.distillation == "maxmins":
            taken = torch.cat([taken, order[-self.per_group :]])
        return nn.functional.one_hot(taken, len(inside)).T.to(inside.dtype)

    def _evidence(self, weights: Tensor, inside: Tensor) -> Tensor:
        """Log-odds of the last class by each tile's attended activation, (n,).

        They rise with its probability, and still tell tiles apart where that is rounded to 1 / C.
        """
        activation = weights[:, None] * (inside @ self.pseudo_bag_classifier.weight.T)
        if self.single_logit:
            return activation[:, 0]
        return activation[:, -1] - activation[:, :-1].logsumexp(dim=1)

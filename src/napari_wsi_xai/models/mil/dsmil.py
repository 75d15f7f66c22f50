"""DSMIL: a critical tile and the tiles alike to it (Li, Li, Eliceiri: CVPR 2021, 2011.08939)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil.arguments import check_whole
from napari_wsi_xai.models.mil.base import MILModel, mean_sigmoid_logits

__all__ = ["DSMIL"]


class DSMIL(MILModel):
    r"""Two streams: a score a tile and class, and attention to the best-scored tile.

    .. math::
        c_{ijk} &= w_k \cdot d_{ij} + b_k, \qquad m_k = \arg\max_j c_{ijk} \\
        q_{ij} &= \tanh(W_2\, ReLU(W_1 d_{ij} + b_1) + b_2) \\
        s_{ijk} &= q_{ij} \cdot q_{i m_k} / \sqrt{Q}, \qquad
        a_{ijk} = \frac{\exp s_{ijk}}{\sum_l \exp s_{ilk}} \\
        D_{ik} &= \sum_j a_{ijk} v(d_{ij}), \qquad
        P_{ik} = b'_k + \sum_l w'_{kl} \cdot D_{il}

    one query length Q and class index k; :math:`q = W d + b` where linear, :math:`v` the identity
    or :math:`ReLU(W_v d + b_v)`. The decision mixes the classes. The slide descriptor is
    :math:`[D_{i1}, ..., D_{iC}]`. Attention scores depend on the critical tile, so they are known
    for a whole bag only; those of :meth:`classify_tiles` are a tile's own.

    Several magnifications are concatenated: each descriptor of the finest tiles followed by those
    of the coarser tiles around it, ``in_features`` long in all.

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`. One output: ``single_logit=True``.
    hidden
        Q.
    nonlinear
        Queries through the two layers above, else through one linear map.
    passing_v
        Values through a layer of their own, else the descriptors themselves.
    dropout_v
        Probability with which entries are dropped before that layer in training.
    num_magnifications
        How many magnifications a descriptor is made of.
    """

    architecture = "dsmil"
    score_kind = "attention logit"
    scores_per_tile = False
    pooling = "bag"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        single_logit: bool = False,
        hidden: int = 128,
        nonlinear: bool = True,
        passing_v: bool = False,
        dropout_v: float = 0.0,
        num_magnifications: int = 1,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            single_logit,
            hidden=hidden,
            nonlinear=nonlinear,
            passing_v=passing_v,
            dropout_v=dropout_v,
            num_magnifications=num_magnifications,
        )
        check_whole(1, hidden=hidden, num_magnifications=num_magnifications)
        if in_features % num_magnifications:
            raise BadArgumentError(
                f"in_features={in_features} must be a multiple of "
                f"num_magnifications={num_magnifications}."
            )
        self.num_magnifications = num_magnifications
        self.magnification_use = "concat" if num_magnifications > 1 else "single"
        self.tile_classifier = nn.Linear(in_features, self.num_logits)
        layers: list[nn.Module] = [nn.Linear(in_features, hidden)]
        if nonlinear:
            layers += [nn.ReLU(), nn.Linear(hidden, hidden), nn.Tanh()]
        self.query = nn.Sequential(*layers)
        self.value: nn.Module = nn.Identity()
        if passing_v:
            self.value = nn.Sequential(
                nn.Dropout(dropout_v), nn.Linear(in_features, in_features), nn.ReLU()
            )
        self.classifier = nn.Linear(self.num_logits * in_features, self.num_logits)

    def classify_tiles(self, features: Tensor) -> Tensor:
        """Logits of the tiles themselves, (N, D) to (N, C)."""
        return self.tile_classifier(features)  # type: ignore[no-any-return]

    def critical_tiles(self, features: Tensor) -> Tensor:
        """Row of the best-scored tile of each class, (C,) int64."""
        return self.classify_tiles(features).argmax(dim=0)

    def score_tiles(self, features: Tensor, coords_level0: Tensor | None = None) -> Tensor:
        """(N, D) to the attention logits of every class, (N, C)."""
        queries = self.query(features)
        critical = queries[self.critical_tiles(features)]
        return queries @ critical.T / queries.shape[1] ** 0.5  # type: ignore[no-any-return]

    def weigh(self, tile_scores: Tensor) -> Tensor:
        """Softmax of the attention logits over the tiles, (N, C)."""
        return torch.softmax(tile_scores, dim=0)

    def aggregate(
        self, tile_scores: Tensor, features: Tensor | None, coords_level0: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Values averaged with each class's attention, (C D,), and the attention (N, C)."""
        assert features is not None
        attention = self.weigh(tile_scores)
        return (attention.T @ self.value(features)).flatten(), attention

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """Linear over all classes' descriptors: (C D,) to (C,)."""
        return self.classifier(slide_descriptor)  # type: ignore[no-any-return]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (C,) to probabilities (C,), a sigmoid each: classes do not exclude one another.

        They do not sum to one, but for a single logit, where ``p = sigmoid(logit)`` gives
        ``(1 - p, p)``.
        """
        if self.single_logit:
            return super().probabilities(logits)
        return torch.sigmoid(logits)

    def mean_logits(self, logits: Tensor) -> Tensor:
        """See :meth:`MILModel.mean_logits`; every class has a sigmoid of its own."""
        return mean_sigmoid_logits(logits)

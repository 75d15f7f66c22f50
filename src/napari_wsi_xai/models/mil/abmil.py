"""Attention-based MIL, plain and gated (Ilse, Tomczak, Welling: ICML 2018, arXiv 1802.04712)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_wsi_xai.models.mil.arguments import check_whole
from napari_wsi_xai.models.mil.base import MILModel

__all__ = ["ABMIL", "GatedABMIL"]


class ABMIL(MILModel):
    r"""Attention pooling, equations 7 and 8 of the paper.

    .. math::
        s_{ij} &= w^T \tanh(V d_{ij} + b_V) + b_w, \qquad
        a_{ij} = \frac{\exp s_{ij}}{\sum_k \exp s_{ik}} \\
        D_i &= \sum_j a_{ij} d_{ij}, \qquad P_i = W_c D_i + b_c

    The biases are those of the authors' code; the paper's equations have none.

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`. The authors' own head has a single logit.
    hidden
        Length L of the attention's hidden layer.
    dropout
        Probability with which entries of the hidden layer are dropped in training.
    """

    architecture = "abmil"
    score_kind = "attention logit"
    pooling = "weighted-sum"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        single_logit: bool = False,
        hidden: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_features, num_classes, single_logit, hidden=hidden, dropout=dropout)
        check_whole(1, hidden=hidden)
        self.attention_V = nn.Linear(in_features, hidden)
        self.attention_w = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_features, self.num_logits)

    def score_tiles(self, features: Tensor, coords_level0: Tensor | None = None) -> Tensor:
        """(N, D) to attention logits (N, 1)."""
        return self.attention_w(self.dropout(self._hidden(features)))  # type: ignore[no-any-return]

    def _hidden(self, features: Tensor) -> Tensor:
        return torch.tanh(self.attention_V(features))

    def weigh(self, tile_scores: Tensor) -> Tensor:
        """Softmax of the attention logits over the tiles, (N, 1)."""
        return torch.softmax(tile_scores, dim=0)

    def aggregate(
        self, tile_scores: Tensor, features: Tensor | None, coords_level0: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Descriptors averaged with the attention: (D,), and the attention (N, 1)."""
        assert features is not None
        attention = self.weigh(tile_scores)
        return attention[:, 0] @ features, attention

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """Linear classifier: (D,) to (C,)."""
        return self.classifier(slide_descriptor)  # type: ignore[no-any-return]


class GatedABMIL(ABMIL):
    r"""Gated attention pooling, equation 9 of the paper.

    .. math::
        s_{ij} = w^T [\tanh(V d_{ij} + b_V) \odot \sigma(U d_{ij} + b_U)] + b_w

    The rest is as in :class:`ABMIL`.
    """

    architecture = "abmil-gated"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        single_logit: bool = False,
        hidden: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_features, num_classes, single_logit, hidden, dropout)
        self.attention_U = nn.Linear(in_features, hidden)

    def _hidden(self, features: Tensor) -> Tensor:
        return super()._hidden(features) * torch.sigmoid(self.attention_U(features))

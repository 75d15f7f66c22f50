"""What heads share that project every descriptor before they score and pool it."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from napari_wsi_xai.models.mil.base import MILModel, MILOutput

__all__ = ["ProjectedMIL"]


class ProjectedMIL(MILModel):
    r"""Attention pooling of projected descriptors, :math:`h_{ij} = g(d_{ij}) \in R^L`.

    .. math::
        s_{ij} = f(h_{ij}) \in R^K, \qquad
        a_{ijk} = \frac{\exp s_{ijk}}{\sum_l \exp s_{ilk}}, \qquad
        D_i = [\sum_j a_{ij1} h_{ij}, ..., \sum_j a_{ijK} h_{ij}] \in R^{K L}

    A subclass gives :math:`g` as :meth:`project` and :math:`f` as :meth:`score_projected`.
    ``forward`` projects once.
    """

    score_kind = "attention logit"
    pooling: ClassVar[Literal["scores", "weighted-sum", "bag"]] = "weighted-sum"

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """Descriptors (N, D) to (N, L)."""

    @abstractmethod
    def score_projected(self, projected: Tensor) -> Tensor:
        """Projections (N, L) to attention logits (N, K)."""

    def score_tiles(self, features: Tensor, coords_level0: Tensor | None = None) -> Tensor:
        """(N, D) to attention logits (N, K)."""
        return self.score_projected(self.project(features))

    def weigh(self, tile_scores: Tensor) -> Tensor:
        """Softmax of the attention logits over the tiles, (N, K)."""
        return torch.softmax(tile_scores, dim=0)

    def pool(self, tile_scores: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Projections averaged with the attention, branch after branch: (K L,), (N, K)."""
        attention = self.weigh(tile_scores)
        return (attention.T @ projected).flatten(), attention

    def aggregate(
        self, tile_scores: Tensor, features: Tensor | None, coords_level0: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scores (N, K) and descriptors (N, D) to (slide descriptor (K L,), attention (N, K))."""
        assert features is not None
        return self.pool(tile_scores, self.project(features))

    def forward(self, features: Tensor, coords_level0: Tensor | None = None) -> MILOutput:
        """See :meth:`MILModel.forward`."""
        projected = self.project(self.check_bag(features))
        tile_scores = self.score_projected(projected)
        slide_descriptor, attention = self.pool(tile_scores, projected)
        return MILOutput(self.decide(slide_descriptor), tile_scores, attention, slide_descriptor)

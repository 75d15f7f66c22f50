"""Mean pooling of tile logits: every tile votes, all votes weigh the same."""

from __future__ import annotations

from torch import Tensor, nn

from napari_wsi_xai.models.mil.base import MILModel

__all__ = ["MeanMIL"]


class MeanMIL(MILModel):
    r"""Instance-space mean pooling.

    .. math::
        s_{ij} = W d_{ij} + b \in R^C, \qquad
        D_i = P_i = \frac{1}{N_i} \sum_j s_{ij}

    The tile scores are class logits, so a tile's share of the decision is its score over N.
    Because the classifier is linear, this equals classifying the mean descriptor.

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`.
    """

    architecture = "mean"
    score_kind = "class logit"
    pooling = "scores"

    def __init__(self, in_features: int, num_classes: int, single_logit: bool = False) -> None:
        super().__init__(in_features, num_classes, single_logit)
        self.classifier = nn.Linear(in_features, self.num_logits)

    def score_tiles(self, features: Tensor, coords_level0: Tensor | None = None) -> Tensor:
        """(N, D) to class logits (N, C)."""
        return self.classifier(features)  # type: ignore[no-any-return]

    def aggregate(self, tile_scores: Tensor, features: Tensor | None) -> tuple[Tensor, None]:
        """Mean of the logits over the tiles, (C,); no attention."""
        return tile_scores.mean(dim=0), None

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """The mean logits are the decision."""
        return slide_descriptor

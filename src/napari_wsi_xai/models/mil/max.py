"""Max pooling of tile logits: the most convincing tile of each class decides."""

from __future__ import annotations

from torch import Tensor, nn

from napari_wsi_xai.models.mil.base import MILModel

__all__ = ["MaxMIL"]


class MaxMIL(MILModel):
    r"""Instance-space max pooling, per class.

    .. math::
        s_{ij} = W d_{ij} + b \in R^C, \qquad
        D_{i,c} = P_{i,c} = \max_j s_{ij,c}

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`.
    """

    architecture = "max"
    score_kind = "class logit"
    pooling = "scores"

    def __init__(self, in_features: int, num_classes: int, single_logit: bool = False) -> None:
        super().__init__(in_features, num_classes, single_logit)
        self.classifier = nn.Linear(in_features, self.num_logits)

    def score_tiles(self, features: Tensor, coords_level0: Tensor | None = None) -> Tensor:
        """(N, D) to class logits (N, C)."""
        return self.classifier(features)  # type: ignore[no-any-return]

    def aggregate(self, tile_scores: Tensor, features: Tensor | None) -> tuple[Tensor, None]:
        """Largest logit of each class over the tiles, (C,); no attention."""
        return tile_scores.max(dim=0).values, None

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """The largest logits are the decision."""
        return slide_descriptor

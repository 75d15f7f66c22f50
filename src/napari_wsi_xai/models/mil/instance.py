"""What instance-space heads share: a linear classifier on every tile, pooled per class."""

from __future__ import annotations

from torch import Tensor, nn

from napari_wsi_xai.models.mil.base import MILModel

__all__ = ["InstanceMIL"]


class InstanceMIL(MILModel):
    r"""Class logits of every tile, :math:`s_{ij} = W d_{ij} + b \in R^C`; pooled, they decide.

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`.
    """

    score_kind = "class logit"
    pooling = "scores"

    def __init__(self, in_features: int, num_classes: int, single_logit: bool = False) -> None:
        super().__init__(in_features, num_classes, single_logit)
        self.classifier = nn.Linear(in_features, self.num_logits)

    def score_tiles(self, features: Tensor, coords_level0: Tensor | None = None) -> Tensor:
        """(N, D) to class logits (N, C)."""
        return self.classifier(features)  # type: ignore[no-any-return]

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """The pooled logits are the decision."""
        return slide_descriptor

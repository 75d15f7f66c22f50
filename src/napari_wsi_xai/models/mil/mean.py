"""Mean pooling of tile logits: every tile votes, all votes weigh the same."""

from __future__ import annotations

from torch import Tensor

from napari_wsi_xai.models.mil.instance import InstanceMIL

__all__ = ["MeanMIL"]


class MeanMIL(InstanceMIL):
    r"""Instance-space mean pooling.

    .. math::
        s_{ij} = W d_{ij} + b \in R^C, \qquad
        D_i = P_i = \frac{1}{N_i} \sum_j s_{ij}

    The tile scores are class logits, so a tile's share of the decision is its score over N.
    Because the classifier is linear, this equals classifying the mean descriptor.
    """

    architecture = "mean"

    def aggregate(
        self, tile_scores: Tensor, features: Tensor | None, coords_level0: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Mean of the logits over the tiles, (C,); no attention."""
        return tile_scores.mean(dim=0), None

"""Max pooling of tile logits: the most convincing tile of each class decides."""

from __future__ import annotations

from torch import Tensor

from napari_wsi_xai.models.mil.instance import InstanceMIL

__all__ = ["MaxMIL"]


class MaxMIL(InstanceMIL):
    r"""Instance-space max pooling, per class.

    .. math::
        s_{ij} = W d_{ij} + b \in R^C, \qquad
        D_{i,c} = P_{i,c} = \max_j s_{ij,c}
    """

    architecture = "max"

    def aggregate(
        self, tile_scores: Tensor, features: Tensor | None, coords_level0: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Largest logit of each class over the tiles, (C,); no attention."""
        return tile_scores.max(dim=0).values, None

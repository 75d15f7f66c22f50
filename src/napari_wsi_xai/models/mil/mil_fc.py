"""MIL with a fully connected network: the top tile decides (Lu et al. 2021; Campanella 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil.arguments import check_whole
from napari_wsi_xai.models.mil.base import MILModel, MILOutput

__all__ = ["MILFC", "TOP_RULES"]

TOP_RULES = ("positive", "any")
"""Which tile is the top one: that with the largest probability of class 1, or of any class."""


class MILFC(MILModel):
    r"""Every tile is classified; the most confident one speaks for the slide.

    .. math::
        h_{ij} &= \max(0, W d_{ij} + b) \in R^{512}, \qquad s_{ij} = W_c h_{ij} + b_c \in R^C \\
        t_i &= \arg\max_j \mathrm{softmax}(s_{ij})_1 \text{ ("positive")} \quad\text{or}\quad
        \arg\max_j \max_c \mathrm{softmax}(s_{ij})_c \text{ ("any")} \\
        D_i &= h_{i t_i}, \qquad P_i = s_{i t_i}

    The top tile is found by its log odds, which rank as probabilities do but do not saturate.

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`.
    hidden
        Length of the projected descriptors.
    rule
        One of :data:`TOP_RULES`; ``"positive"`` needs two classes. The default is ``"positive"``
        for two classes, else ``"any"``.
    dropout
        Probability with which entries of the projection are dropped in training.
    """

    architecture = "mil-fc"
    score_kind = "class logit"
    pooling = "bag"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        single_logit: bool = False,
        hidden: int = 512,
        rule: str | None = None,
        dropout: float = 0.25,
    ) -> None:
        rule = rule or ("positive" if num_classes == 2 else "any")
        super().__init__(
            in_features, num_classes, single_logit, hidden=hidden, rule=rule, dropout=dropout
        )
        check_whole(1, hidden=hidden)
        if rule not in TOP_RULES:
            raise BadArgumentError(f"rule={rule!r} must be one of {', '.join(TOP_RULES)}.")
        if rule == "positive" and num_classes != 2:
            raise BadArgumentError(
                f"rule='positive' is for 2 classes, not num_classes={num_classes}: take 'any'."
            )
        self.rule = rule
        self.projection = nn.Linear(in_features, hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, self.num_logits)

    def project(self, features: Tensor) -> Tensor:
        """Descriptors (N, D) to (N, hidden)."""
        return self.dropout(torch.relu(self.projection(features)))  # type: ignore[no-any-return]

    def score_tiles(self, features: Tensor, coords_level0: Tensor | None = None) -> Tensor:
        """(N, D) to class logits (N, C)."""
        return self.classifier(self.project(features))  # type: ignore[no-any-return]

    def top_tile(self, tile_scores: Tensor) -> Tensor:
        """Row of the tile that decides, of class logits (N, C): () int64."""
        if self.single_logit:
            tile_scores = torch.cat([torch.zeros_like(tile_scores), tile_scores], dim=1)
        if self.rule == "positive":
            return (tile_scores[:, 1] - tile_scores[:, 0]).argmax()
        ranked = tile_scores.sort(dim=1, descending=True).values
        return (ranked[:, 0] - ranked[:, 1:].logsumexp(dim=1)).argmax()

    def aggregate(
        self, tile_scores: Tensor, features: Tensor | None, coords_level0: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Projection of the top tile, (hidden,); no attention."""
        assert features is not None
        return self.project(features[self.top_tile(tile_scores)]), None

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """The classifier of the tiles: (hidden,) to (C,)."""
        return self.classifier(slide_descriptor)  # type: ignore[no-any-return]

    def forward(self, features: Tensor, coords_level0: Tensor | None = None) -> MILOutput:
        """See :meth:`MILModel.forward`; the logits are the top tile's own."""
        projected = self.project(self.check_bag(features))
        tile_scores = self.classifier(projected)
        top = self.top_tile(tile_scores)
        return MILOutput(tile_scores[top], tile_scores, None, projected[top])

"""ZoomMIL: looks at everything coarsely and opens a few tiles (Thandiackal et al., ECCV 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from napari_wsi_xai.errors import BadArgumentError, ModelError
from napari_wsi_xai.models.mil.arguments import check_whole
from napari_wsi_xai.models.mil.bags import Bags, check_bags, children_per_tile
from napari_wsi_xai.models.mil.base import MILModel
from napari_wsi_xai.models.mil.gated_attention import GatedAttention
from napari_wsi_xai.models.mil.perturbed_topk import mix_children, perturbed_topk
from napari_wsi_xai.models.mil.zoom_levels import ZoomLevel, ZoomOutput, gather_levels

__all__ = ["ZoomLevel", "ZoomMIL", "ZoomOutput"]

SAMPLES = 100
"""Perturbations drawn for one soft choice in training."""


class ZoomMIL(MILModel):
    r"""Attention at every magnification; an auxiliary attention decides where to look closer.

    .. math::
        h^m_j &= \mathrm{ReLU}(W^m d^m_j + b^m), \qquad
        s^m_j = w^{mT} [\tanh(V^m h^m_j) \odot \sigma(U^m h^m_j)], \qquad
        a^m = \mathrm{softmax}(s^m) \\
        t^m &= \mathrm{softmax}(\tilde{s}^m) \;\text{(auxiliary attention, own weights)}, \qquad
        O^m = \text{the } \min(k, n_m) \text{ tiles of largest } t^m \\
        D_i &= \sum_m \sum_j a^m_j h^m_j, \qquad P_i = W_c D_i + b_c

    Of magnification m + 1 only the children of :math:`O^m` are looked at. The main attention
    :math:`a` is the heat map and never decides what is opened. In training the choice is soft
    (:func:`perturbed_topk` of :math:`t^m`) and finer descriptors are mixtures of those of several
    tiles; in evaluation it is hard. Of equal scores the earlier tile is opened.

    A bag of magnification m + 1 holds the r children of tile j of bag m at rows j r .. j r + r - 1.
    What the paper calls ZoomMIL-Eff is this head with fewer opened tiles (here ``k_sample=1``); the
    published code has no class of its own for it.

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`.
    hidden
        Length of the attentions' hidden layers.
    out_features
        Length L of a projection h.
    k_sample
        k, the most tiles that are opened at one magnification. Checkpoints do not tell it.
    k_sigma
        Standard deviation of the perturbation in training.
    dropout
        Probability with which entries of projections and hidden layers are dropped in training.
    num_magnifications
        M, at least 2.
    """

    architecture = "zoommil"
    score_kind = "attention logit"
    scores_per_tile = False
    magnification_use = "zoom"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        single_logit: bool = False,
        hidden: int = 256,
        out_features: int = 512,
        k_sample: int = 12,
        k_sigma: float = 0.002,
        dropout: float = 0.0,
        num_magnifications: int = 3,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            single_logit,
            hidden=hidden,
            out_features=out_features,
            k_sample=k_sample,
            k_sigma=k_sigma,
            dropout=dropout,
            num_magnifications=num_magnifications,
        )
        self._check_arguments()
        self.num_magnifications = num_magnifications
        self.k_sample = k_sample
        self.k_sigma = k_sigma

        def attentions(count: int) -> nn.ModuleList:
            return nn.ModuleList(
                GatedAttention(out_features, hidden, dropout) for _ in range(count)
            )

        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(in_features, out_features), nn.ReLU(), nn.Dropout(dropout))
            for _ in range(num_magnifications)
        )
        self.attentions = attentions(num_magnifications)
        self.selections = attentions(num_magnifications - 1)
        self.classifier = nn.Linear(out_features, self.num_logits)

    def _check_arguments(self) -> None:
        check_whole(1, **{n: self.arguments[n] for n in ("hidden", "out_features", "k_sample")})
        check_whole(2, num_magnifications=self.arguments["num_magnifications"])
        if not self.arguments["k_sigma"] > 0:
            raise BadArgumentError(f"k_sigma={self.arguments['k_sigma']} must be above 0.")

    def forward(
        self,
        features: Bags,
        coords_level0: Bags | None = None,
        noise: Sequence[Tensor] | None = None,
    ) -> ZoomOutput:
        """Bags of all tiles of every magnification to the decision.

        Parameters
        ----------
        features
            M bags (N_m, D), coarse to fine, every tile's children in order.
        coords_level0
            Not needed.
        noise
            Only used in training: (S, n_m) standard normal for each magnification but the finest,
            n_m being the tiles looked at there; drawn where not given. In training the output's
            rows are what was looked at: the coarsest tiles, then the mixtures.

        Raises
        ------
        ModelError
            As :meth:`MILModel.forward`, or numbers of tiles that do not divide.
        """
        bags = self._check_nested(features)
        return self._mix(bags, noise) if self.training else self._zoom(bags)

    def _zoom(self, bags: list[Tensor]) -> ZoomOutput:
        """Hard choice among all tiles."""
        levels: list[ZoomLevel] = []
        descriptor = bags[0].new_zeros(())
        rows = _all_rows(bags[0])
        for level, bag in enumerate(bags):
            seen, pooled = self._look(level, bag if len(rows) == len(bag) else bag[rows])
            seen.looked, seen.opened = rows, rows[seen.opened]
            levels.append(seen)
            descriptor = descriptor + pooled
            if level + 1 < len(bags):
                rows = _children(seen.opened, len(bags[level + 1]) // len(bag))
        return self._output(levels, descriptor, bags)

    def forward_opened(self, features: Sequence[Tensor]) -> ZoomOutput:
        """The same from bags that hold nothing but what is looked at.

        Bag m + 1 holds the children of the opened rows of bag m, in order, except for those that
        could not be read. Rows in the output are rows of these bags. With every child there, the
        logits equal those of :meth:`forward` on all tiles. The choice is hard, in training too.
        """
        bags = check_bags(self, features)
        levels: list[ZoomLevel] = []
        descriptor = bags[0].new_zeros(())
        for level, bag in enumerate(bags):
            seen, pooled = self._look(level, bag)
            levels.append(seen)
            descriptor = descriptor + pooled
        return self._output(levels, descriptor, bags)

    def look(self, level: int, features: Tensor) -> ZoomLevel:
        """What a bag (n, D) of magnification ``level`` alone tells, before finer ones are there."""
        if not 0 <= level < self.num_magnifications:
            raise BadArgumentError(
                f"level={level} is none of the head's magnifications: it must be from 0 to "
                f"{self.num_magnifications - 1}."
            )
        return self._look(level, self.check_bag(features))[0]

    def open_tiles(self, level: int, features: Tensor) -> Tensor:
        """Rows of a bag (n, D) of magnification ``level`` to open: (min(k, n),) int64, ascending.

        ``level`` counts from 0, the coarsest; the finest has nothing to open.
        """
        if not 0 <= level < self.num_magnifications - 1:
            raise BadArgumentError(
                f"level={level} has nothing to open: it must be from 0 to "
                f"{self.num_magnifications - 2}."
            )
        try:
            projected = self.projections[level](self.check_bag(features))
        except ModelError as error:
            number, count = level + 1, self.num_magnifications
            raise ModelError(
                f"magnification {number} of {count}, coarse to fine: {error}"
            ) from error
        return self._largest(self.selections[level](projected))

    def score_tiles(self, features: Bags, coords_level0: Bags | None = None) -> Tensor:
        """M bags to main attention logits (N1 + N2 + ..., M), NaN where not looked."""
        return self._zoom(self._check_nested(features)).tile_scores

    def aggregate(
        self, tile_scores: Tensor, features: Bags | None, coords_level0: Bags | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scores (N1 + N2 + ..., M) and bags to (slide descriptor (L,), attention like scores)."""
        assert features is not None
        bags = check_bags(self, features)
        looked = ~torch.isnan(tile_scores)
        attention = torch.softmax(tile_scores.masked_fill(~looked, -torch.inf), dim=0)
        descriptor = bags[0].new_zeros(())
        start = 0
        for level, bag in enumerate(bags):
            end = start + len(bag)
            rows = looked[start:end, level].nonzero()[:, 0]
            weights = attention[start:end, level][rows]
            descriptor = descriptor + weights @ self.projections[level](bag[rows])
            start = end
        return descriptor, attention

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """Linear classifier: (L,) to (C,)."""
        return self.classifier(slide_descriptor)  # type: ignore[no-any-return]

    def _check_nested(self, features: Bags) -> list[Tensor]:
        bags = check_bags(self, features)
        for number, (coarse, fine) in enumerate(pairwise(bags), 1):
            children_per_tile(len(coarse), len(fine), number)
        return bags

    def _look(self, level: int, bag: Tensor) -> tuple[ZoomLevel, Tensor]:
        """What a bag of looked-at tiles gives, and its part of the slide descriptor (L,)."""
        projected = self.projections[level](bag)
        scores = self.attentions[level](projected)
        attention = torch.softmax(scores, dim=0)
        rows = _all_rows(bag)
        selection, opened = None, rows[:0]
        if level < len(self.selections):
            raw = self.selections[level](projected)
            selection, opened = torch.softmax(raw, dim=0), self._largest(raw)
        seen = ZoomLevel(rows, scores, attention, selection, opened)
        return seen, attention[:, 0] @ projected

    def _largest(self, scores: Tensor) -> Tensor:
        """Rows of the k largest of (n, 1); logits, because their softmax can underflow to ties."""
        order = torch.sort(scores.detach()[:, 0], descending=True, stable=True).indices
        return order[: self.k_sample].sort().values

    def _output(
        self, levels: list[ZoomLevel], descriptor: Tensor, bags: list[Tensor]
    ) -> ZoomOutput:
        scores, attention = gather_levels(levels, [len(bag) for bag in bags])
        return ZoomOutput(self.decide(descriptor), scores, attention, descriptor, tuple(levels))

    def _mix(self, bags: list[Tensor], noise: Sequence[Tensor] | None) -> ZoomOutput:
        """Soft choice: every finer bag becomes mixtures of the children of several tiles."""
        if noise is not None and len(noise) != len(bags) - 1:
            raise BadArgumentError(
                f"noise for {len(noise)} magnifications: give it for {len(bags) - 1}, all but the "
                "finest."
            )
        levels: list[ZoomLevel] = []
        descriptor = bags[0].new_zeros(())
        for level in range(len(bags)):
            seen, pooled = self._look(level, bags[level])
            levels.append(seen)
            descriptor = descriptor + pooled
            if seen.selection is None:
                break
            k = min(self.k_sample, len(bags[level]))
            drawn = SAMPLES if noise is None else noise[level].reshape(-1, noise[level].shape[-1])
            indicators = perturbed_topk(seen.selection[:, 0], k, drawn, self.k_sigma)
            finer = [mix_children(indicators, bag) for bag in bags[level + 1 :]]
            bags = [*bags[: level + 1], *finer]
        return self._output(levels, descriptor, bags)


def _all_rows(bag: Tensor) -> Tensor:
    return torch.arange(len(bag), device=bag.device)


def _children(rows: Tensor, factor: int) -> Tensor:
    """Rows of the children of ``rows``, tile after tile."""
    return (rows[:, None] * factor + torch.arange(factor, device=rows.device)).flatten()

"""The branch that tells slides apart, which MS-DA-MIL is trained against (Hashimoto 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from napari_wsi_xai.models.mil.arguments import check_whole
from napari_wsi_xai.models.mil.msmil import adaptive_grad_reverse

__all__ = ["DomainBranch", "DomainTerm"]


class DomainBranch(nn.Module):
    """Descriptors (N, L) to one logit a training slide (N, S): Linear, ReLU, Linear.

    It is trained beside the head and thrown away afterwards.
    """

    def __init__(self, in_features: int, slides: int, hidden: int = 1024) -> None:
        super().__init__()
        check_whole(1, in_features=in_features, slides=slides, hidden=hidden)
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, slides)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, L) to (N, S)."""
        return self.layers(features)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class DomainTerm:
    """The branch, which slide a bag is of, and how strongly gradients are reversed.

    Attributes
    ----------
    branch
        Tells slides apart.
    slide
        The bag's, 0 <= slide < S.
    strength
        See :func:`~napari_wsi_xai.models.mil.msmil.domain_strength`.
    """

    branch: DomainBranch
    slide: int
    strength: float

    def loss(self, features: Tensor, attention: Tensor) -> Tensor:
        """Mean cross entropy of the slide over tiles (N, L), gradients reversed by attention."""
        logits = self.branch(adaptive_grad_reverse(features, attention, self.strength))
        return cross_entropy(logits, torch.full_like(logits[:, 0], self.slide, dtype=torch.int64))

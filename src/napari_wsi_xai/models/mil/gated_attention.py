"""The gated attention network that several heads score tiles with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["GatedAttention"]


class GatedAttention(nn.Module):
    r"""Projections h (N, L) to logits (N, 1), :math:`w^T[\tanh(V h) \odot \sigma(U h)]`, biased."""

    def __init__(self, in_features: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.V = nn.Linear(in_features, hidden)
        self.U = nn.Linear(in_features, hidden)
        self.w = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, projected: Tensor) -> Tensor:
        """(N, L) to (N, 1)."""
        tanh = self.dropout(torch.tanh(self.V(projected)))
        gate = self.dropout(torch.sigmoid(self.U(projected)))
        return self.w(tanh * gate)  # type: ignore[no-any-return]

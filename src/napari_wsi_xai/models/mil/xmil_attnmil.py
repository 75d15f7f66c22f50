"""AttnMIL as xMIL trains it: attention pooling of projections (Hense et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_wsi_xai.models.mil.arguments import check_whole
from napari_wsi_xai.models.mil.projected import ProjectedMIL

__all__ = ["XMILAttnMIL"]


class XMILAttnMIL(ProjectedMIL):
    r"""Attention pooling of descriptors that linear layers have projected (arXiv 2406.04280).

    .. math::
        h^{(0)}_{ij} &= d_{ij}, \qquad h^{(l)}_{ij} = \max(0, W_l h^{(l-1)}_{ij} + b_l) \\
        s_{ij} &= w^T \tanh(V h^{(L)}_{ij} + b_V) + b_w, \qquad
        a_{ij} = \frac{\exp s_{ij}}{\sum_k \exp s_{ik}} \\
        D_i &= \sum_j a_{ij} h^{(L)}_{ij}, \qquad
        P_i = W_c\, g(D_i) + b_c

    :math:`g` are further layers like the first ones, on the pooled descriptor; often none.

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`.
    hidden
        Length of every layer's output.
    attention
        Length of the attention's hidden layer.
    layers
        L, the number of layers before the pooling, at least 1.
    out_layers
        Number of layers after it.
    dropout
        Probability with which entries of descriptors, projections and the classifier's input are
        dropped in training.
    """

    architecture = "xmil-attnmil"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        single_logit: bool = False,
        hidden: int = 256,
        attention: int = 128,
        layers: int = 1,
        out_layers: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            single_logit,
            hidden=hidden,
            attention=attention,
            layers=layers,
            out_layers=out_layers,
            dropout=dropout,
        )
        check_whole(1, hidden=hidden, attention=attention, layers=layers)
        check_whole(0, out_layers=out_layers)
        lengths = [in_features] + [hidden] * (layers - 1)
        self.layers = nn.ModuleList(nn.Linear(before, hidden) for before in lengths)
        self.attention_V = nn.Linear(hidden, attention)
        self.attention_w = nn.Linear(attention, 1)
        self.out_layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(out_layers))
        self.classifier = nn.Linear(hidden, self.num_logits)
        self.dropout = nn.Dropout(dropout)

    def project(self, features: Tensor) -> Tensor:
        """Descriptors (N, D) to (N, hidden)."""
        projected = self.dropout(features)
        for layer in self.layers:
            projected = torch.relu(layer(projected))
        return self.dropout(projected)  # type: ignore[no-any-return]

    def score_projected(self, projected: Tensor) -> Tensor:
        """Projections (N, hidden) to attention logits (N, 1)."""
        return self.attention_w(torch.tanh(self.attention_V(projected)))  # type: ignore[no-any-return]

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """Layers after the pooling and the linear classifier: (hidden,) to (C,)."""
        for layer in self.out_layers:
            slide_descriptor = torch.relu(layer(slide_descriptor))
        return self.classifier(self.dropout(slide_descriptor))  # type: ignore[no-any-return]

"""MIL-SIL: a mean-pooled and a single-instance branch share one classifier (arXiv 1904.03127).

Built from the paper; its authors published no code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil.mean import MeanMIL

__all__ = ["MILSIL", "MILSILLosses"]


@dataclass(frozen=True)
class MILSILLosses:
    """Scalars to train with: ``total = bag + sil_weight * single``."""

    total: Tensor
    bag: Tensor
    single: Tensor


class MILSIL(MeanMIL):
    r"""Tile logits whose mean is the slide's, trained on slides and on tiles at once.

    .. math::
        s_{ij} &= W d_{ij} + b \in R^C, \qquad D_i = P_i = \frac{1}{N_i} \sum_j s_{ij} \\
        L_i &= \ell(P_i, y_i) + \lambda \frac{1}{N_i} \sum_j \ell(s_{ij}, y_i)

    The second term is the single-instance branch: every tile has its slide's label. Both share
    W and b, so at inference the head is :class:`~napari_wsi_xai.models.mil.mean.MeanMIL`; the
    paper has it on a BagNet-9, whose own small view keeps the tile scores local.

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`.
    """

    architecture = "mil-sil"

    def losses(self, features: Tensor, label: int, sil_weight: float = 1.0) -> MILSILLosses:
        """Cross entropy of the slide and of its tiles, with the slide's label.

        Parameters
        ----------
        features
            (N, D) descriptors of the bag.
        label
            The slide's class, 0 <= label < C.
        sil_weight
            Weight of the single-instance term, at least 0.
        """
        label = self.check_label(label)
        if not sil_weight >= 0:
            raise BadArgumentError(f"sil_weight={sil_weight} must be at least 0.")
        out = self(features)
        bag = self._entropy(out.logits[None], label)
        single = self._entropy(out.tile_scores, label)
        return MILSILLosses(bag + sil_weight * single, bag, single)

    def _entropy(self, logits: Tensor, label: int) -> Tensor:
        """Mean cross entropy of logits (n, C) with one label."""
        if self.single_logit:
            return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
        return cross_entropy(logits, logits.new_full((len(logits),), label, dtype=torch.int64))

"""TransMIL as xMIL explains it (Hense, Jamshidi Idaji et al., NeurIPS 2024, arXiv 2406.04280)."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil.arguments import check_whole
from napari_wsi_xai.models.mil.nystrom import NystromAttention
from napari_wsi_xai.models.mil.token_attention import DotProductAttention, TokenAttention
from napari_wsi_xai.models.mil.transformer import TransformerMIL, square_side

__all__ = ["ATTENTION_KINDS", "HEAD_FUSIONS", "XMILTransMIL"]

ATTENTION_KINDS = ("nystrom", "dot_prod")
HEAD_FUSIONS = ("mean", "max", "min")


class XMILTransMIL(TransformerMIL):
    """TransMIL of any size and depth, with Nystrom or plain softmax attention.

    See :class:`~napari_wsi_xai.models.mil.transformer.TransformerMIL` for the equations. Each
    token gets its own result (``crop="back"`` of
    :class:`~napari_wsi_xai.models.mil.nystrom.NystromAttention`), landmarks are half of ``dim``.

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`.
    dim
        Length of a token.
    n_layers
        Number of layers, at least 2.
    attention
        One of ``"nystrom"``, ``"dot_prod"``; the tensors are the same, so that checkpoints do not
        tell it.
    heads
        Attention heads.
    residual_kernel
        Taps of the convolution of the values along the tokens, odd, or 0 for none.
    dropout
        Probability with which entries of an attention's output are dropped in training.
    class_dropout
        The same for the slide descriptor.
    """

    architecture = "xmil-transmil"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        single_logit: bool = False,
        dim: int = 512,
        n_layers: int = 2,
        attention: str = "nystrom",
        heads: int = 8,
        residual_kernel: int = 33,
        dropout: float = 0.1,
        class_dropout: float = 0.5,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            single_logit,
            dim=dim,
            n_layers=n_layers,
            attention=attention,
            heads=heads,
            residual_kernel=residual_kernel,
            dropout=dropout,
            class_dropout=class_dropout,
        )
        check_whole(1, dim=dim)
        check_whole(2, n_layers=n_layers)
        if attention not in ATTENTION_KINDS:
            kinds = ", ".join(ATTENTION_KINDS)
            raise BadArgumentError(f"attention={attention!r} must be one of {kinds}.")

        def layer_attention() -> TokenAttention:
            if attention == "dot_prod":
                return DotProductAttention(dim, heads, residual_kernel, dropout)
            return NystromAttention(dim, heads, residual_kernel, dropout, max(1, dim // 2))

        self.build_layers(dim, [layer_attention() for _ in range(n_layers)], class_dropout)

    @torch.no_grad()
    def attention_rollout(
        self, features: Tensor, fusion: str = "mean", discard: float = 0.0
    ) -> Tensor:
        r"""Attention of the class token to the tiles through all layers, (N,).

        .. math::
            a_l = \tfrac{1}{2} (\bar A_l + I), \qquad
            \tilde a_{l,ij} = \frac{a_{l,ij}}{\sum_k a_{l,jk}}, \qquad
            R = \tilde a_L \cdots \tilde a_1

        :math:`\bar A_l` are the heads fused. Column j is divided by the sum of *row j*, as
        published: for rows that sum to one this is the usual normalisation, for Nystrom attention
        it is not. The mean over heads without discarding takes memory linear in the tiles; the
        rest holds whole matrices, for small bags.

        Parameters
        ----------
        features
            (N, D) the bag.
        fusion
            Of the heads: ``"mean"``, ``"max"`` or ``"min"``.
        discard
            Share of the smallest entries of a fused attention that are set to zero, in [0, 1).
            Tiles repeated to fill the square, and padding, make equal entries; which of those at
            the limit go is left open.
        """
        if fusion not in HEAD_FUSIONS:
            raise BadArgumentError(f"fusion={fusion!r} must be one of {', '.join(HEAD_FUSIONS)}.")
        if not (isinstance(discard, Real) and 0 <= discard < 1):
            raise BadArgumentError(f"discard={discard!r} must be at least 0 and below 1.")
        if fusion == "mean" and discard == 0:
            return self._pushed_rollout(features)
        matrices = self.attention_matrices(features)
        eye = torch.eye(matrices[0].shape[-1]).to(matrices[0])
        rollout = eye
        for layer in matrices:
            fused = 0.5 * (_drop_smallest(_fuse(layer, fusion), discard) + eye)
            rollout = (fused / fused.sum(dim=-1)) @ rollout
        class_token = len(eye) - 1 - square_side(len(features)) ** 2
        return rollout[class_token, class_token + 1 :][: len(features)]

    def _pushed_rollout(self, features: Tensor) -> Tensor:
        """The class token's row of the product, taken from the last layer to the first."""
        layers = [
            (layer.attention, layer.attention.pad(layer.norm(tokens)))
            for layer, tokens in self.layer_inputs(self.check_bag(features))
        ]
        row = torch.zeros_like(layers[0][1][:, 0])
        class_token = len(row) - 1 - square_side(len(features)) ** 2
        row[class_token] = 1
        for attention, padded in reversed(layers):
            sums = 0.5 * (attention.row_sums(padded) + 1)
            row = 0.5 * (attention.push(padded, row) + row) / sums
        return row[class_token + 1 :][: len(features)]


def _fuse(heads: Tensor, fusion: str) -> Tensor:
    """(H, n, n) to (n, n)."""
    if fusion == "mean":
        return heads.mean(dim=0)
    return heads.amax(dim=0) if fusion == "max" else heads.amin(dim=0)


def _drop_smallest(fused: Tensor, share: float) -> Tensor:
    """The smallest entries set to zero, but never the first one."""
    flat = fused.flatten().clone()
    smallest = flat.topk(int(flat.numel() * share), largest=False).indices
    flat[smallest[smallest != 0]] = 0
    return flat.view_as(fused)

"""Nystrom attention (Xiong et al., AAAI 2021, arXiv 2102.03902) in memory linear in the tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil.arguments import check_whole
from napari_wsi_xai.models.mil.token_attention import TokenAttention

__all__ = ["CROPS", "NystromAttention", "pseudo_inverse"]

CROPS = ("back", "front")
"""Which n of the n' = padding + n results the tokens get; the padding lies in front.

``"back"``: the last n, each token its own. ``"front"``: the first n, so that each token gets the
result of the one ``padding`` places before it: early releases of the attention library did so, and
heads trained with them need it."""


def pseudo_inverse(matrices: Tensor, iterations: int = 6) -> Tensor:
    r"""Moore-Penrose inverses of (H, m, m) by the iteration of the paper, equation 11.

    .. math::
        Z_0 = \frac{A^T}{\max_{h,i} \sum_j |A^h_{ij}| \cdot \max_{h,j} \sum_i |A^h_{ij}|}, \qquad
        Z \leftarrow \tfrac{1}{4} Z (13 I - A Z (15 I - A Z (7 I - A Z)))

    The two maxima run over all heads together, so one head's inverse depends on the others.
    """
    size = matrices.abs()
    inverse = matrices.transpose(-1, -2) / (size.sum(dim=-1).max() * size.sum(dim=-2).max())
    eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    for _ in range(iterations):
        product = matrices @ inverse
        inner = 15 * eye - product @ (7 * eye - product)
        inverse = 0.25 * inverse @ (13 * eye - product @ inner)
    return inverse


class NystromAttention(TokenAttention):
    r"""Attention through m landmarks, the means of as many runs of l consecutive tokens.

    .. math::
        A &= A_1 A_2^+ A_3, \qquad A_1 = softmax(q \bar k^T), \quad
        A_2 = softmax(\bar q \bar k^T), \quad A_3 = softmax(\bar q k^T) \\
        \bar q_a &= \tfrac{1}{l} \sum_{i=al}^{al+l-1} q_i, \qquad l = \lceil n / m \rceil

    queries scaled by :math:`(dim / H)^{-1/2}`. Zero tokens in front make n' = m l; they are not
    masked. Rows of A need not sum to one and may be negative.

    Parameters
    ----------
    dim, heads, residual_kernel, dropout
        See :class:`~napari_wsi_xai.models.mil.token_attention.TokenAttention`.
    landmarks
        m.
    iterations
        Of :func:`pseudo_inverse`.
    crop
        One of :data:`CROPS`.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        residual_kernel: int = 33,
        dropout: float = 0.0,
        landmarks: int = 256,
        iterations: int = 6,
        crop: str = "back",
    ) -> None:
        super().__init__(dim, heads, residual_kernel, dropout)
        check_whole(1, landmarks=landmarks, pinv_iterations=iterations)
        if crop not in CROPS:
            raise BadArgumentError(f"crop={crop!r} must be one of {', '.join(CROPS)}.")
        self.landmarks, self.iterations, self.crop = landmarks, iterations, crop

    def padding(self, count: int) -> int:
        """Zero tokens that make the count a multiple of the landmarks."""
        return -count % self.landmarks

    def received(self, count: int) -> int:
        """Row whose result the first token gets: its own, or with ``crop="front"`` row 0."""
        return self.padding(count) if self.crop == "back" else 0

    def mix(self, padded: Tensor, values: Tensor) -> Tensor:
        """Values summed as A1 (A2+ (A3 v)): no matrix of all heads and tokens is ever held."""
        q_marks, k_marks, inverse = self._landmarks(padded)
        keys = self.split_heads(self.part(padded, 1))
        v = self.split_heads(values)
        summed = F.scaled_dot_product_attention(q_marks[None], keys[None], v[None])
        del keys
        queries = self.split_heads(self.part(padded, 0))
        mixed = F.scaled_dot_product_attention(queries[None], k_marks[None], inverse @ summed)[0]
        return mixed.transpose(0, 1).reshape(values.shape)

    def rows(self, padded: Tensor, indices: Sequence[int]) -> Tensor:
        """See :meth:`TokenAttention.rows`."""
        q_marks, k_marks, inverse = self._landmarks(padded)
        left = self._to_landmarks(padded[list(indices)], k_marks)
        return self._from_landmarks(left @ inverse, q_marks, padded)

    def push(self, padded: Tensor, weights: Tensor) -> Tensor:
        """See :meth:`TokenAttention.push`."""
        q_marks, k_marks, inverse = self._landmarks(padded)
        left = padded.new_zeros(self.heads, self.landmarks)
        for run, part in zip(_runs(padded), _runs(weights), strict=True):
            left = left + part @ self._to_landmarks(run, k_marks)
        return self._from_landmarks(left[:, None] @ inverse, q_marks, padded)[:, 0].mean(dim=0)

    def row_sums(self, padded: Tensor) -> Tensor:
        """Rows of A3 sum to one, so A's row sums are A1 times the row sums of A2+."""
        _, k_marks, inverse = self._landmarks(padded)
        sums = inverse.sum(dim=-1, keepdim=True)
        parts = [(self._to_landmarks(run, k_marks) @ sums).mean(dim=0) for run in _runs(padded)]
        return torch.cat(parts)[:, 0]

    def matrices(self, padded: Tensor) -> Tensor:
        """See :meth:`TokenAttention.matrices`."""
        q_marks, k_marks, inverse = self._landmarks(padded)
        keys = self.split_heads(self.part(padded, 1))
        scores = q_marks * self.head_dim**-0.5 @ keys.transpose(1, 2)
        return self._to_landmarks(padded, k_marks) @ inverse @ torch.softmax(scores, dim=-1)

    def _landmarks(self, padded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Landmark queries and keys (H, m, dim / H) and the pseudo-inverse of A2 (H, m, m)."""
        # The mean of projections is the projection of the mean.
        means = padded.view(self.landmarks, -1, self.dim).mean(dim=1)
        q_marks, k_marks = (self.split_heads(self.part(means, i)) for i in (0, 1))
        attention = self._to_landmarks(means, k_marks)
        return q_marks, k_marks, pseudo_inverse(attention, self.iterations)

    def _to_landmarks(self, tokens: Tensor, k_marks: Tensor) -> Tensor:
        """Softmax of tokens' queries over the landmarks' keys, (H, n, m)."""
        queries = self.split_heads(self.part(tokens, 0)) * self.head_dim**-0.5
        return torch.softmax(queries @ k_marks.transpose(1, 2), dim=-1)

    def _from_landmarks(self, left: Tensor, q_marks: Tensor, padded: Tensor) -> Tensor:
        """``left`` (H, r, m) times A3: (H, r, n'); one head's A3 (m, n') is held at a time."""
        keys = self.split_heads(self.part(padded, 1))
        scaled = q_marks * self.head_dim**-0.5
        heads = zip(left, scaled, keys, strict=True)
        if torch.is_grad_enabled() and padded.requires_grad:
            return torch.stack([checkpoint(_weigh, *head, use_reentrant=False) for head in heads])
        return torch.stack([_weigh(*head) for head in heads])


def _runs(tokens: Tensor) -> tuple[Tensor, ...]:
    """Tokens in pieces, so that the softmax of all of them is not held at once."""
    return torch.split(tokens, 16384)


def _weigh(left: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """``left`` (r, m) times softmax(queries keys^T) over keys, (r, n')."""
    return left @ torch.softmax(queries @ keys.T, dim=-1)

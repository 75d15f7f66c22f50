"""Self-attention over the tokens of one bag, and what its kinds share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil.arguments import check_whole

__all__ = ["DotProductAttention", "TokenAttention"]

CHUNK_TOKENS = 1024
"""Queries whose rows of a dense attention matrix are held at once."""


class TokenAttention(nn.Module, ABC):
    r"""Multi-head attention with a convolution of the values along the tokens.

    .. math::
        [q, k, v] = W_{qkv} x, \qquad
        y_i = W_o [\sum_j A^h_{ij} v^h_j + \sum_t c^h_t v^h_{i + t - T/2}]_h + b_o

    A subclass gives :math:`A^h`, (n', n') a head. It may put zero tokens in front of the bag, so
    that n' is larger than the number n of tokens.

    Parameters
    ----------
    dim
        Length of a token; each head works on ``dim / heads`` of it.
    heads
        Number of heads H.
    residual_kernel
        Taps T of the convolution, odd; 0 leaves it out.
    dropout
        Probability with which entries of the output are dropped in training.
    """

    def __init__(
        self, dim: int, heads: int = 8, residual_kernel: int = 33, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_whole(1, dim=dim, heads=heads)
        check_whole(0, residual_kernel=residual_kernel)
        if dim % heads:
            raise BadArgumentError(f"dim={dim} must be a multiple of heads={heads}.")
        if residual_kernel != 0 and residual_kernel % 2 == 0:
            raise BadArgumentError(f"residual_kernel={residual_kernel} must be odd, or 0 for none.")
        self.dim, self.heads, self.head_dim = dim, heads, dim // heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.residual: nn.Conv2d | None = None
        if residual_kernel:
            size, margin = (residual_kernel, 1), (residual_kernel // 2, 0)
            self.residual = nn.Conv2d(heads, heads, size, padding=margin, groups=heads, bias=False)

    def padding(self, count: int) -> int:
        """Zero tokens put in front of ``count`` tokens."""
        return 0

    def received(self, count: int) -> int:
        """Row of the padded attention whose result the first token gets."""
        return self.padding(count)

    @abstractmethod
    def mix(self, padded: Tensor, values: Tensor) -> Tensor:
        """Values (n', dim) summed with the attention of every padded token, (n', dim)."""

    @abstractmethod
    def rows(self, padded: Tensor, indices: Sequence[int]) -> Tensor:
        """Rows of the attention of padded tokens (n', dim), (H, number of indices, n')."""

    @abstractmethod
    def push(self, padded: Tensor, weights: Tensor) -> Tensor:
        """Rows summed with weights (n',), mean over the heads: (n',)."""

    @abstractmethod
    def row_sums(self, padded: Tensor) -> Tensor:
        """Sum of each row, mean over the heads: (n',)."""

    @abstractmethod
    def matrices(self, padded: Tensor) -> Tensor:
        """The whole attention of padded tokens, (H, n', n')."""

    def pad(self, tokens: Tensor) -> Tensor:
        """Tokens (n, dim) with the zero tokens in front, (n', dim)."""
        padding = self.padding(len(tokens))
        return F.pad(tokens, (0, 0, padding, 0)) if padding else tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (n, dim) to (n, dim)."""
        first, count = self.received(len(tokens)), len(tokens)
        padded = self.pad(tokens)
        values = self.part(padded, 2)
        mixed = self.mix(padded, values)
        if self.residual is not None:
            # The convolution's own result is nobody else's, so it may be added to.
            mixed = self._convolve(values).add_(mixed)
        return self.dropout(self.out(mixed[first : first + count]))  # type: ignore[no-any-return]

    def attend_first(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What the first token alone gets, (dim,), and its row of the attention, (H, n').

        Where the crop hands it another token's result, the row is nevertheless its own.
        """
        count = len(tokens)
        own, received = self.padding(count), self.received(count)
        padded = self.pad(tokens)
        rows = self.rows(padded, [own, received])
        # sum_j a_j W_v x_j = W_v sum_j a_j x_j: the values of all tokens are not needed.
        sums = rows[:, 1] @ padded
        value = self._weight(2).view(self.heads, self.head_dim, self.dim)
        mixed = torch.einsum("hd,hed->he", sums, value).flatten()
        mixed = mixed + self._convolve_one(padded, received)
        return self.dropout(self.out(mixed)), rows[:, 0]

    def part(self, tokens: Tensor, index: int) -> Tensor:
        """Queries (0), keys (1) or values (2) of tokens, (n, dim), head after head."""
        return F.linear(tokens, self._weight(index))

    def split_heads(self, tokens: Tensor) -> Tensor:
        """(n, dim) to (H, n, dim / H), a view."""
        return tokens.view(-1, self.heads, self.head_dim).transpose(0, 1)

    def _weight(self, index: int) -> Tensor:
        return self.qkv.weight[index * self.dim : (index + 1) * self.dim]

    def _convolve(self, values: Tensor) -> Tensor:
        """The convolution with channels last, in which tokens lie already; (n', dim)."""
        assert self.residual is not None
        kernel = self.residual.weight.repeat_interleave(self.head_dim, dim=0)
        lying = values.view(1, len(values), 1, self.dim).permute(0, 3, 1, 2)
        mixed = F.conv2d(lying, kernel, padding=self.residual.padding, groups=self.dim)
        return mixed.permute(0, 2, 3, 1).reshape(len(values), self.dim)

    def _convolve_one(self, padded: Tensor, index: int) -> Tensor | float:
        """The convolution's value at one padded token, (dim,)."""
        if self.residual is None:
            return 0.0
        taps = self.residual.weight[:, 0, :, 0]
        first = index - taps.shape[1] // 2
        start, stop = max(0, first), min(len(padded), first + taps.shape[1])
        values = self.split_heads(self.part(padded[start:stop], 2))
        return torch.einsum("ht,hte->he", taps[:, start - first : stop - first], values).flatten()


class DotProductAttention(TokenAttention):
    r"""Softmax attention, :math:`A^h = softmax(q^h k^{hT} / \sqrt{dim / H})`; no padding."""

    def mix(self, padded: Tensor, values: Tensor) -> Tensor:
        """See :meth:`TokenAttention.mix`."""
        q, k, v = (
            self.split_heads(x) for x in (self.part(padded, 0), self.part(padded, 1), values)
        )
        mixed = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        return mixed.transpose(0, 1).reshape(values.shape)

    def rows(self, padded: Tensor, indices: Sequence[int]) -> Tensor:
        """See :meth:`TokenAttention.rows`."""
        keys = self.split_heads(self.part(padded, 1))
        return self._softmax_rows(padded[list(indices)], keys)

    def push(self, padded: Tensor, weights: Tensor) -> Tensor:
        """See :meth:`TokenAttention.push`."""
        keys = self.split_heads(self.part(padded, 1))
        total = torch.zeros_like(weights)
        for start, stop in _chunks(len(padded)):
            rows = self._softmax_rows(padded[start:stop], keys)
            total = total + (weights[start:stop] @ rows).mean(dim=0)
        return total

    def row_sums(self, padded: Tensor) -> Tensor:
        """See :meth:`TokenAttention.row_sums`: they are one."""
        return padded.new_ones(len(padded))

    def matrices(self, padded: Tensor) -> Tensor:
        """See :meth:`TokenAttention.matrices`."""
        return self.rows(padded, range(len(padded)))

    def _softmax_rows(self, tokens: Tensor, keys: Tensor) -> Tensor:
        queries = self.split_heads(self.part(tokens, 0)) * self.head_dim**-0.5
        return torch.softmax(queries @ keys.transpose(1, 2), dim=-1)


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, CHUNK_TOKENS):
        yield start, min(count, start + CHUNK_TOKENS)

"""Pyramid position encoding of TransMIL: what a tile's neighbours on the square are adds to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PPEG"]


class PPEG(nn.Module):
    r"""Depthwise convolutions of three sizes on the tokens laid as a square, row after row.

    .. math::
        f \leftarrow f + w_7 * f + b_7 + w_5 * f + b_5 + w_3 * f + b_3

    with zeros around the square. The class token stays as it is. All terms are linear in f, so
    they are one convolution with the sum of the kernels.

    Parameters
    ----------
    dim
        Length of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv7 = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.conv5 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv3 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        """Tokens (1 + side^2, dim), the class token first, to the same shape."""
        dim = tokens.shape[1]
        square = tokens[1:].view(1, side, side, dim).permute(0, 3, 1, 2)
        convs = (self.conv7, self.conv5, self.conv3)
        kernel = sum(F.pad(conv.weight, (i, i, i, i)) for i, conv in enumerate(convs))
        identity = F.pad(tokens.new_ones(1, 1, 1, 1), (3, 3, 3, 3))
        bias = self.conv7.bias + self.conv5.bias + self.conv3.bias  # type: ignore[operator]
        mixed = F.conv2d(square, kernel + identity, bias, padding=3, groups=dim)
        return torch.cat([tokens[:1], mixed.permute(0, 2, 3, 1).reshape(-1, dim)])

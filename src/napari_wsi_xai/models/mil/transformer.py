"""What the two TransMIL heads share: tiles as tokens on a square, read by a class token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from napari_wsi_xai.errors import ModelError
from napari_wsi_xai.models.mil.base import MILModel, MILOutput
from napari_wsi_xai.models.mil.ppeg import PPEG
from napari_wsi_xai.models.mil.token_attention import TokenAttention

__all__ = ["AttentionRows", "TransformerMIL", "square_side"]

MAX_MATRIX_TOKENS = 8192
"""Whole attention matrices beyond this many tokens are refused: 8 heads of them fill 2 GiB."""


@dataclass(frozen=True)
class AttentionRows:
    """Rows of one layer's attention over the padded tokens.

    Attributes
    ----------
    class_token
        (H, n') the class token's own row.
    first
        (H, n') row 0; its result is what the class token gets with ``crop="front"``.
    padding
        Zero tokens in front; the class token is token ``padding``, tile j token
        ``padding + 1 + j``.
    """

    class_token: Tensor
    first: Tensor
    padding: int

    def over_tiles(self, count: int) -> Tensor:
        """The class token's row for the first ``count`` tiles, mean over heads, (count,)."""
        return self.class_token[:, self.padding + 1 :][:, :count].mean(dim=0)


class TransformerLayer(nn.Module):
    """Tokens plus the attention of their layer norm."""

    def __init__(self, dim: int, attention: TokenAttention) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = attention

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, dim) to (n, dim)."""
        return tokens + self.attention(self.norm(tokens))  # type: ignore[no-any-return]

    def read_first(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The first token after the layer (dim,), and its row of the attention (H, n')."""
        result, row = self.attention.attend_first(self.norm(tokens))
        return tokens[0] + result, row


class TransformerMIL(MILModel):
    r"""A transformer over the tiles whose class token is the slide descriptor.

    .. math::
        h_{ij} = ReLU(W d_{ij} + b), \qquad S = \lceil \sqrt N \rceil

    The first :math:`S^2 - N` tiles are appended again, a class token is put in front, and the
    layers follow, with a :class:`~napari_wsi_xai.models.mil.ppeg.PPEG` on the S x S square after
    the first. Order matters: tiles are laid on the square in the order of the bag.

    .. math::
        D_i = LN(c_i), \qquad P_i = W_c D_i + b_c

    Tile scores are the class token's row of the last layer's attention, mean over the heads; they
    need not be positive and do not sum to one, so ``attention`` is ``None``. Of the last layer
    only the class token is computed.
    """

    score_kind = "class-token attention"
    scores_per_tile = False
    pooling = "bag"

    def build_layers(
        self, dim: int, attentions: Sequence[TokenAttention], class_dropout: float = 0.0
    ) -> None:
        """Make the tensors; subclasses call it once in their constructor."""
        self.embed = nn.Linear(self.in_features, dim)
        self.class_token = nn.Parameter(torch.randn(1, 1, dim))
        self.layers = nn.ModuleList(TransformerLayer(dim, a) for a in attentions)
        self.position = PPEG(dim)
        self.norm = nn.LayerNorm(dim)
        self.class_dropout = nn.Dropout(class_dropout)
        self.classifier = nn.Linear(dim, self.num_logits)

    def score_tiles(self, features: Tensor, coords_level0: Tensor | None = None) -> Tensor:
        """(N, D) to the class token's attention (N, 1); of the bag as a whole."""
        return self._read(features)[1]

    def aggregate(
        self, tile_scores: Tensor, features: Tensor | None, coords_level0: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The class token after the last layer, normalised, (dim,); no attention."""
        assert features is not None
        return self._read(features)[0], None

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """Linear classifier: (dim,) to (C,)."""
        return self.classifier(self.class_dropout(slide_descriptor))  # type: ignore[no-any-return]

    def forward(self, features: Tensor, coords_level0: Tensor | None = None) -> MILOutput:
        """See :meth:`MILModel.forward`."""
        slide_descriptor, tile_scores = self._read(self.check_bag(features))
        return MILOutput(self.decide(slide_descriptor), tile_scores, None, slide_descriptor)

    def attention_rows(self, features: Tensor) -> tuple[AttentionRows, ...]:
        """The class token's rows in every layer, for a bag (N, D)."""
        found = []
        for layer, tokens in self.layer_inputs(self.check_bag(features)):
            attention = layer.attention
            padding = attention.padding(len(tokens))
            padded = attention.pad(layer.norm(tokens))
            rows = attention.rows(padded, [padding, 0])
            found.append(AttentionRows(rows[:, 0], rows[:, 1], padding))
        return tuple(found)

    def attention_matrices(self, features: Tensor) -> tuple[Tensor, ...]:
        """Every layer's whole attention (H, n', n') for a small bag (N, D).

        Raises
        ------
        ModelError
            More than 8192 tokens.
        """
        found = []
        for layer, tokens in self.layer_inputs(self.check_bag(features)):
            if len(tokens) > MAX_MATRIX_TOKENS:
                raise ModelError(
                    f"the attention of {len(tokens)} tokens is too large to be held as a matrix; "
                    f"the limit is {MAX_MATRIX_TOKENS}: ask for rows of it instead."
                )
            found.append(layer.attention.matrices(layer.attention.pad(layer.norm(tokens))))
        return tuple(found)

    def _tokens(self, features: Tensor) -> Tensor:
        """Class token, tiles, and the first tiles again until the square is full."""
        tiles = torch.relu_(self.embed(features))
        side = square_side(len(tiles))
        return torch.cat([self.class_token[0], tiles, tiles[: side * side - len(tiles)]])

    def layer_inputs(self, features: Tensor) -> Iterator[tuple[TransformerLayer, Tensor]]:
        """Each layer with the tokens (n, dim) that enter it."""
        tokens = self._tokens(features)
        last = len(self.layers) - 1
        for i, module in enumerate(self.layers):
            layer = cast("TransformerLayer", module)
            yield layer, tokens
            if i < last:
                tokens = layer(tokens)
            if i == 0:
                tokens = self.position(tokens, square_side(len(features)))

    def _read(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Slide descriptor (dim,) and tile scores (N, 1)."""
        for layer, tokens in self.layer_inputs(features):  # noqa: B007
            pass
        padding = layer.attention.padding(len(tokens))
        token, row = layer.read_first(tokens)
        scores = AttentionRows(row, row, padding).over_tiles(len(features))
        return self.norm(token), scores[:, None]


def square_side(count: int) -> int:
    """Edge of the smallest square that holds ``count`` tiles."""
    return math.isqrt(count - 1) + 1

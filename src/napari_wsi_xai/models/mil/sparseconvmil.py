"""SparseConvMIL: a convolution over the places of the tiles (Lerousseau et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from napari_wsi_xai.errors import BadArgumentError, ModelError
from napari_wsi_xai.models.mil.arguments import check_whole, described
from napari_wsi_xai.models.mil.base import MILModel
from napari_wsi_xai.models.mil.sparse_sites import Sites, neighbour_pairs, occupied_sites

__all__ = ["SparseConvMIL", "SubmanifoldConvolution"]


class SubmanifoldConvolution(nn.Module):
    r"""Convolution that reads from and writes to occupied sites only.

    .. math::
        y_L = b + \sum_{\delta} [L + \delta \text{ occupied}]\; x_{L + \delta} W_\delta

    It equals a dense convolution of the grid with zeros at empty sites, kept where sites are
    occupied, but its memory grows with the sites and not with the grid.

    Parameters
    ----------
    in_channels, out_channels
        Lengths of x and y.
    kernel
        Edge of the window, odd. ``weight`` is (kernel^2, in, out), x offset slowest.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        spread = (2 / (in_channels * kernel**2)) ** 0.5
        self.weight = nn.Parameter(torch.randn(kernel**2, in_channels, out_channels) * spread)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, features: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Sites (S, in) to (S, out); ``pairs`` from :func:`neighbour_pairs`."""
        out = self.bias.expand(len(features), -1).clone()
        for weight, (here, there) in zip(self.weight, pairs, strict=True):
            if len(here):
                # Multiplied first and picked then: the picked rows are short.
                out.index_add_(0, here, (features @ weight)[there])
        return out


class SparseConvMIL(MILModel):
    r"""Tiles on a coarse grid, submanifold convolutions over it, the mean over occupied sites.

    .. math::
        L_{ij} &= \lfloor (x_{ij}, y_{ij}) / \text{downsample} \rfloor, \qquad
        u^0_L = \text{mean of the } d_{ij} \text{ with } L_{ij} = L \\
        u^{l+1}_L &= \mathrm{ReLU}\left(b^l + \sum_{\delta}
        [L + \delta \text{ occupied}]\; u^l_{L + \delta} W^l_\delta\right) \\
        D_i &= \text{mean of } u^{\text{last}}_L \text{ over occupied sites}, \qquad
        P_i = W_2\, \mathrm{ReLU}(W_1 D_i + b_1) + b_2

    It needs to know where the tiles lie. Coordinates are yx as everywhere here; the first axis of
    the kernels is x, as in the authors' code. Tiles are neighbours when their sites touch: with a
    stride of s level-0 pixels from tile to tile that takes ``downsample = s``.

    The score of a tile is the activation of its site after the last convolution, one a channel.

    Parameters
    ----------
    in_features, num_classes, single_logit
        See :class:`~napari_wsi_xai.models.MILModel`.
    channels
        Lengths of u after each convolution.
    kernels
        Edges of the convolutions' windows, odd, as many.
    hidden
        Lengths of the perceptron's hidden layers.
    downsample
        Edge of a site in level-0 pixels. Checkpoints do not tell it.
    translation
        (x, y) in sites, subtracted before rounding, which is then towards zero; see
        :func:`occupied_sites`. The authors draw it at random, in evaluation too; without it sites
        do not depend on chance.
    """

    architecture = "sparseconvmil"
    score_kind = "convolution activation"
    scores_per_tile = False

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        single_logit: bool = False,
        channels: Sequence[int] = (32, 32),
        kernels: Sequence[int] = (3, 3),
        hidden: Sequence[int] = (32,),
        downsample: float = 10.0,
        translation: Sequence[float] = (0.0, 0.0),
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            single_logit,
            channels=list(channels),
            kernels=list(kernels),
            hidden=list(hidden),
            downsample=float(downsample),
            translation=[float(t) for t in translation],
        )
        self._check_arguments()
        self.downsample = float(downsample)
        self.translation = (float(translation[0]), float(translation[1]))
        convolutions: list[nn.Module] = []
        sizes = pairwise([in_features, *channels])
        for (before, after), kernel in zip(sizes, kernels, strict=True):
            convolutions += [SubmanifoldConvolution(before, after, kernel), nn.ReLU()]
        self.convolutions = nn.ModuleList(convolutions)
        layers: list[nn.Module] = []
        for before, after in pairwise([channels[-1], *hidden]):
            layers += [nn.Linear(before, after), nn.ReLU()]
        last = [channels[-1], *hidden][-1]
        self.classifier = nn.Sequential(*layers, nn.Linear(last, self.num_logits))

    def _check_arguments(self) -> None:
        channels, kernels = self.arguments["channels"], self.arguments["kernels"]
        if not channels or len(channels) != len(kernels):
            raise BadArgumentError(
                f"channels={channels} and kernels={kernels} must be equally many, at least 1."
            )
        check_whole(1, channels=channels, kernels=kernels, hidden=self.arguments["hidden"])
        if any(kernel % 2 == 0 for kernel in kernels):
            raise BadArgumentError(f"kernels={kernels} must be odd, at least 1.")
        if not self.arguments["downsample"] > 0:
            raise BadArgumentError(f"downsample={self.arguments['downsample']} must be above 0.")
        if len(self.arguments["translation"]) != 2:
            raise BadArgumentError(
                f"translation={self.arguments['translation']} must be two numbers, x and y."
            )

    def sites(self, coords_level0: Tensor | None, tiles: int) -> Sites:
        """Where the tiles lie on the grid.

        Raises
        ------
        ModelError
            No coordinates, or not two for each of the tiles.
        """
        if coords_level0 is None:
            raise ModelError(
                "this sparseconvmil head looks at where tiles lie: give coords_level0, their "
                "origins (number of tiles, 2) as yx in level-0 pixels."
            )
        real = isinstance(coords_level0, Tensor) and not coords_level0.is_complex()
        if not real or tuple(coords_level0.shape) != (tiles, 2):
            raise ModelError(
                f"coords_level0 {described(coords_level0)} does not fit: {tiles} tiles need a "
                f"tensor ({tiles}, 2) of real numbers."
            )
        device = next(self.parameters()).device
        return occupied_sites(coords_level0.to(device), self.downsample, self.translation)

    def site_activations(self, features: Tensor, sites: Sites) -> list[Tensor]:
        """(S, channels) after each convolution and each ReLU, sites in the order of ``sites``."""
        pairs = {k: neighbour_pairs(sites, k) for k in set(self.arguments["kernels"])}
        u = features.new_zeros((len(sites.counts), features.shape[1]))
        u = u.index_add_(0, sites.of_tile, features).div_(sites.counts[:, None])
        activations = []
        for layer in self.convolutions:
            convolves = isinstance(layer, SubmanifoldConvolution)
            u = layer(u, pairs[layer.kernel]) if convolves else layer(u)
            activations.append(u)
        return activations

    def score_tiles(self, features: Tensor, coords_level0: Tensor | None = None) -> Tensor:
        """(N, D) and places (N, 2) to the last activations at the tiles' sites (N, channels)."""
        sites = self.sites(coords_level0, len(features))
        return self.site_activations(features, sites)[-1][sites.of_tile]

    def aggregate(
        self, tile_scores: Tensor, features: Tensor | None, coords_level0: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The mean over occupied sites (channels,), of scores that all tiles of a site share."""
        sites = self.sites(coords_level0, len(tile_scores))
        weights = 1 / (len(sites.counts) * sites.counts[sites.of_tile].to(tile_scores.dtype))
        return weights @ tile_scores, None

    def decide(self, slide_descriptor: Tensor) -> Tensor:
        """Perceptron: (channels,) to (C,)."""
        return self.classifier(slide_descriptor)  # type: ignore[no-any-return]

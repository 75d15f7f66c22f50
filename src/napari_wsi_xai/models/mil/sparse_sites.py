"""Places of tiles on a coarse grid, and which of them are neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from napari_wsi_xai.errors import ModelError

__all__ = ["Sites", "neighbour_pairs", "occupied_sites"]


@dataclass(frozen=True)
class Sites:
    """The places of a grid that hold at least one tile.

    Attributes
    ----------
    places
        (S, 2) int64, x and y counted from the smallest of each; sorted by x, then y.
    of_tile
        (N,) int64, the row of ``places`` that each tile lies on.
    counts
        (S,) int64, how many tiles lie on each.
    """

    places: Tensor
    of_tile: Tensor
    counts: Tensor


def occupied_sites(
    coords_level0: Tensor, downsample: float, translation: tuple[float, float] = (0.0, 0.0)
) -> Sites:
    r"""Sites of tiles, :math:`L = \lfloor c / \text{downsample} \rfloor - \min`.

    With a translation t (x, y, in sites) it is :math:`\mathrm{trunc}(c / \text{downsample} - t)`,
    which rounds towards zero: both sides of 0 fall on one site, as in the authors' code.

    Parameters
    ----------
    coords_level0
        (N, 2) origins of the tiles, yx in level-0 pixels.
    downsample
        Edge of a site in level-0 pixels.
    translation
        t; a whole number of sites changes nothing but where 0 lies.
    """
    xy = coords_level0.flip(1).to(torch.float64) / downsample
    if not torch.isfinite(xy).all():
        raise ModelError("coordinates of tiles are not finite: give their origins in pixels.")
    xy = torch.trunc(xy - xy.new_tensor(translation)) if any(translation) else torch.floor(xy)
    places = (xy - xy.min(dim=0).values).to(torch.int64)
    width = int(places[:, 1].max()) + 1
    keys, of_tile, counts = torch.unique(
        places[:, 0] * width + places[:, 1], return_inverse=True, return_counts=True
    )
    return Sites(torch.stack([keys // width, keys % width], dim=1), of_tile, counts)


def neighbour_pairs(sites: Sites, kernel: int) -> list[tuple[Tensor, Tensor]]:
    """For each place of a ``kernel`` x ``kernel`` window, (sites here, their neighbours there).

    The places run over x outside and y inside, as the kernel's weights do. Sites whose neighbour
    there is empty are left out.
    """
    reach = kernel // 2
    # So wide that stepping out of a row never lands on a site of the next.
    width = int(sites.places[:, 1].max()) + 1 + reach
    keys = sites.places[:, 0] * width + sites.places[:, 1]
    steps = range(-reach, reach + 1)
    pairs = []
    for wanted in (keys + dx * width + dy for dx in steps for dy in steps):
        there = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        here = (keys[there] == wanted).nonzero()[:, 0]
        pairs.append((here, there[here]))
    return pairs

"""Tiles turned and coloured anew each time that they are trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor

from napari_wsi_xai.models.torchvision_import import import_torchvision

__all__ = ["Augmentation"]

LEAST_GROUPS, LARGEST_GROUP = 8, 8
"""Groups of a bag's tiles that are coloured alike, and most tiles of one: few enough for a
processor's cache."""

COLOURS = ("brightness", "contrast", "saturation", "hue")


class Augmentation:
    """Random turns and colours of a bag's tiles, on whatever device they are.

    Draws from PyTorch's global random numbers.

    Parameters
    ----------
    settings
        ``"flips"``: whether each tile is turned into one of its eight orientations;
        ``"brightness"``, ``"contrast"``, ``"saturation"`` and ``"hue"``: how far colours go at
        most, as torchvision's ``ColorJitter`` has it. What is missing is left alone.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.flips = bool(settings.get("flips", False))
        amounts = {name: float(settings.get(name, 0)) for name in COLOURS}
        self._jitter: Callable[[Tensor], Tensor] | None = None
        if any(amounts.values()):
            import_torchvision()
            from torchvision.transforms import v2

            self._jitter = v2.ColorJitter(**amounts)

    def turned(self, tiles: Tensor) -> Tensor:
        """(n, p, p, 3) to the same tiles, each in an orientation of its own."""
        if not self.flips:
            return tiles
        orientations = torch.randint(8, (len(tiles),)).to(tiles.device)
        turned = torch.empty_like(tiles)
        for orientation in range(8):
            rows = (orientations == orientation).nonzero()[:, 0]
            turned[rows] = _oriented(tiles[rows], orientation)
        return turned

    def coloured_(self, pixels: Tensor) -> Tensor:
        """(n, 3, p, p) from 0 to 255, coloured in place group by group; groups are drawn."""
        if self._jitter is None:
            return pixels
        groups = max(LEAST_GROUPS, ceil(len(pixels) / LARGEST_GROUP))
        for rows in torch.randperm(len(pixels)).to(pixels.device).tensor_split(groups):
            if len(rows):
                pixels[rows] = self._jitter(pixels[rows] / 255) * 255
        return pixels


def _oriented(tiles: Tensor, orientation: int) -> Tensor:
    """Tiles (n, p, p, 3) in one of the eight orientations of a square; 0 is as they are."""
    if orientation & 4:
        tiles = tiles.transpose(1, 2)
    axes = [axis for axis, bit in ((1, 1), (2, 2)) if orientation & bit]
    return tiles.flip(axes) if axes else tiles

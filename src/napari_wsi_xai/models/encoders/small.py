"""A small convolutional network, fast on a processor: the encoder of the shipped demo model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from napari_wsi_xai.errors import BadArgumentError

__all__ = ["SMALL_WIDTHS", "SmallCNN", "small_name", "small_widths"]

SMALL_WIDTHS = (24, 48, 96, 128)
"""Channels of the stages of the network called ``"small"``."""


class SmallCNN(nn.Module):
    """Stages of 3 x 3 convolution, batch normalisation and ReLU, then global average pooling.

    Every stage halves the resolution with a strided convolution; the first halves it twice (its
    convolution spans 5 x 5 pixels at stride 4), because at 0.5 um per pixel single pixels say
    nothing. The stages between the first and the last add a second 3 x 3 convolution at their
    resolution.

    Parameters
    ----------
    widths
        Channels of each stage; the last is the length of the descriptor.
    """

    def __init__(self, widths: Sequence[int] = SMALL_WIDTHS) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise BadArgumentError(f"widths={tuple(widths)} must be one or more positive numbers.")
        self.widths = tuple(int(width) for width in widths)
        layers: list[nn.Module] = [_stage(3, self.widths[0], kernel=5, stride=4)]
        for number, after in enumerate(self.widths[1:], start=1):
            layers.append(_stage(self.widths[number - 1], after, stride=2))
            if number < len(self.widths) - 1:
                layers.append(_stage(after, after, stride=1))
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, p, p) normalised float to descriptors (n, widths[-1])."""
        return torch.mean(self.features(x), dim=(2, 3))


def _stage(before: int, after: int, *, stride: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def small_name(widths: Sequence[int]) -> str:
    """The name that stands for these widths: ``"small"`` or ``"small-16-32"``."""
    if tuple(widths) == SMALL_WIDTHS:
        return "small"
    return "small-" + "-".join(str(width) for width in widths)


def small_widths(name: str) -> tuple[int, ...]:
    """Widths that a name stands for.

    Raises
    ------
    BadArgumentError
        The name is not ``"small"`` or ``"small-<width>-<width>..."``.
    """
    if name == "small":
        return SMALL_WIDTHS
    parts = name.split("-")
    if parts[0] != "small" or not all(part.isdigit() and int(part) > 0 for part in parts[1:]):
        raise BadArgumentError(
            f"{name!r} names no small CNN: it is 'small' or, with widths, 'small-24-48-96-128'."
        )
    return tuple(int(part) for part in parts[1:])

"""BagNets: networks that see small squares of an image, each by itself, and average what they see.

Brendel and Bethge, "Approximating CNNs with Bag-of-local-Features models works surprisingly well
on ImageNet", ICLR 2019. The topology is ResNet-50's (3, 4, 6 and 3 bottlenecks), without padding
and with 1 x 1 convolutions almost everywhere, so that a position of the last feature map sees a
square of 9, 17 or 33 pixels and nothing else. Positions lie 8 pixels apart.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from napari_wsi_xai.errors import BadArgumentError, ModelError

__all__ = ["BAGNET_WIDTH", "RECEPTIVE_PX", "BagNet", "bagnet_name", "bagnet_numbers"]

RECEPTIVE_PX = {9: (3, 3, 1, 1), 17: (3, 3, 3, 1), 33: (3, 3, 3, 3)}
"""Edge in pixels of what a position sees, and the kernel that opens each of the four stages."""

BAGNET_WIDTH = 64
"""Channels inside the first stage's bottlenecks of the published networks."""

_DEPTHS, _STRIDES, _EXPANSION = (3, 4, 6, 3), (2, 2, 2, 1), 4
_NAME = re.compile(r"bagnet(\d+)(?:-([1-9]\d*))?")


def bagnet_numbers(name: str) -> tuple[int, int]:
    """Receptive field in pixels and width that a name stands for.

    Raises
    ------
    BadArgumentError
        The name is none of ``bagnet9``, ``bagnet17``, ``bagnet33``, with or without a width
        (``bagnet9-16``).
    """
    found = _NAME.fullmatch(name)
    if found is None or int(found[1]) not in RECEPTIVE_PX:
        raise BadArgumentError(
            f"{name!r} names no BagNet: it is {', '.join(f'bagnet{px}' for px in RECEPTIVE_PX)} "
            "or, with narrower stages, 'bagnet9-16'."
        )
    return int(found[1]), int(found[2] or BAGNET_WIDTH)


def bagnet_name(receptive_px: int, width: int = BAGNET_WIDTH) -> str:
    """The name that stands for these numbers: ``"bagnet17"`` or ``"bagnet17-16"``."""
    return f"bagnet{receptive_px}" + (f"-{width}" if width != BAGNET_WIDTH else "")


class BagNet(nn.Module):
    """A bag of local features: ``descriptor = mean over positions of feature_map(x)``.

    Position (i, j) of the feature map sees the square of ``receptive_px`` pixels whose top-left
    corner is pixel ``(stride i, stride j)`` and whose middle is pixel
    ``(stride i + offset, stride j + offset)``. With a classifier (``num_classes``) the logits of
    the image are the mean of the logits of its positions: averaging and ``W d + b`` commute.

    Tensors have the published names and shapes.

    Parameters
    ----------
    receptive_px
        9, 17 or 33.
    width
        Channels inside the first stage's bottlenecks; each stage doubles them. The descriptor
        is 32 times as long.
    num_classes
        Logits of the classifier ``fc``; None for a network without one.
    stem_momentum
        Share of a batch in the running statistics of the first batch norm; the published code
        trains with 0.001, which takes thousands of steps.

    Attributes
    ----------
    stride, offset
        Pixels from a position to the next, and from pixel 0 to the middle of the first square.
    """

    stride = 8

    def __init__(
        self,
        receptive_px: int,
        width: int = BAGNET_WIDTH,
        num_classes: int | None = None,
        stem_momentum: float = 0.001,
    ) -> None:
        super().__init__()
        if receptive_px not in RECEPTIVE_PX or width < 1:
            raise BadArgumentError(
                f"a BagNet with receptive_px={receptive_px} and width={width}: the first is one "
                f"of {', '.join(map(str, RECEPTIVE_PX))}, the second at least 1."
            )
        self.receptive_px, self.width = receptive_px, width
        self.offset = (receptive_px - 1) // 2
        self.conv1 = nn.Conv2d(3, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width, momentum=stem_momentum)
        self.relu = nn.ReLU(inplace=True)
        before = width
        for stage, kernel in enumerate(RECEPTIVE_PX[receptive_px]):
            inside = width * 2**stage
            blocks = _stage(before, inside, _DEPTHS[stage], _STRIDES[stage], kernel)
            setattr(self, f"layer{stage + 1}", blocks)
            before = inside * _EXPANSION
        self.dim = before
        self.fc = None if num_classes is None else nn.Linear(before, num_classes)
        _initialise(self)

    def feature_map(self, x: Tensor) -> Tensor:
        """(n, 3, H, W) normalised float to features (n, dim, h, w), ``h = (H - r) // 8 + 1``.

        Raises
        ------
        ModelError
            The image is smaller than the square that a position sees.
        """
        x = _large_enough(x, self.receptive_px)
        x = self.relu(self.bn1(self.conv2(self.conv1(x))))
        for stage in range(len(_DEPTHS)):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, H, W) normalised float to descriptors (n, dim)."""
        return torch.mean(self.feature_map(x), dim=(2, 3))

    def logit_map(self, x: Tensor) -> Tensor:
        """(n, 3, H, W) normalised float to logits of every position (n, num_classes, h, w).

        Raises
        ------
        ModelError
            The network has no classifier, or the image is too small.
        """
        logits: Tensor = self._classifier()(self.feature_map(x).movedim(1, -1))
        return logits.movedim(-1, 1)

    def logits(self, x: Tensor) -> Tensor:
        """(n, 3, H, W) normalised float to logits (n, num_classes), the means of the logit maps.

        Raises
        ------
        ModelError
            As for :meth:`logit_map`.
        """
        logits: Tensor = self._classifier()(self.forward(x))
        return logits

    def _classifier(self) -> nn.Linear:
        if self.fc is None:
            raise ModelError("this BagNet has no classifier: build it with num_classes.")
        return self.fc


class _Bottleneck(nn.Module):
    """1 x 1, k x k (no padding, strided), 1 x 1, and the input added where it lies beside them.

    A k x k convolution loses ``k - 1`` pixels; those of the skipped input are cut off at the
    bottom and at the right. A 1 x 1 convolution with a stride is one without on every so many
    pixels, and is computed so: oneDNN writes the gradient of the other, with fewer than 16
    channels last in memory, where it must not.
    """

    def __init__(self, before: int, inside: int, stride: int, kernel: int, *, first: bool) -> None:
        super().__init__()
        after = inside * _EXPANSION
        self.conv1 = nn.Conv2d(before, inside, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inside)
        self.stride, self.thinned = stride, kernel == 1 and stride > 1
        within = 1 if self.thinned else stride
        self.conv2 = nn.Conv2d(inside, inside, kernel, stride=within, bias=False)
        self.bn2 = nn.BatchNorm2d(inside)
        self.conv3 = nn.Conv2d(inside, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if first:
            skip = nn.Conv2d(before, after, 1, bias=False)
            self.downsample = nn.Sequential(skip, nn.BatchNorm2d(after))
        self.lost = (kernel - 1) // stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        if self.thinned:
            out = out[:, :, :: self.stride, :: self.stride]
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        skipped = x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]
        if self.downsample is not None:
            skipped = self.downsample(skipped)
        if self.lost:
            skipped = skipped[:, :, : -self.lost, : -self.lost]
        return self.relu(out + skipped)  # type: ignore[no-any-return]


def _stage(before: int, inside: int, depth: int, stride: int, kernel: int) -> nn.Sequential:
    """Bottlenecks of one stage; the first alone strides and looks at neighbours."""
    blocks = [_Bottleneck(before, inside, stride, kernel, first=True)]
    for _ in range(1, depth):
        blocks.append(_Bottleneck(inside * _EXPANSION, inside, 1, 1, first=False))
    return nn.Sequential(*blocks)


def _initialise(network: nn.Module) -> None:
    """Convolutions from N(0, 2 / (k^2 channels out)); norms at weight 1 and bias 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _large_enough(x: Tensor, receptive_px: int) -> Tensor:
    height, width = x.shape[-2:]
    if height < receptive_px or width < receptive_px:
        raise ModelError(
            f"a tile of {height} x {width} pixels is smaller than the {receptive_px} x "
            f"{receptive_px} pixels that bagnet{receptive_px} looks at: use larger tiles."
        )
    return x


torch.fx.wrap("_large_enough")  # checked when the traced network runs, not when it is traced

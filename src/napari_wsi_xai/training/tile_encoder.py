"""An encoder that is trained: uint8 tiles in, descriptors out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from napari_wsi_xai.errors import BadArgumentError, ModelError
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.training.augment import Augmentation
from napari_wsi_xai.training.bag import Bag
from napari_wsi_xai.training.wording import listed

if TYPE_CHECKING:
    from napari_wsi_xai.training.slide_tiles import SlideTiles

__all__ = ["TileEncoder"]

CHUNK = 64
"""Tiles that are encoded at once where nothing is trained."""


class TileEncoder(nn.Module):
    """A copy of an encoder's network that can be trained.

    Parameters
    ----------
    start
        The encoder to begin with; it stays as it is.
    tile_px, mpp
        Edge of its tiles in pixels, at this many micrometres per pixel.
    frozen
        Names of parameters, or what whole parts of names begin with (``"layer1"``,
        ``"features.0"``), that stay as they are; ``"all"``. Batch norms among them use their
        statistics and do not gather new ones.
    augment
        As :class:`~napari_wsi_xai.training.augment.Augmentation` takes it.

    Raises
    ------
    BadArgumentError
        The encoder is a program, or nothing of it has a name of ``frozen``.
    """

    def __init__(
        self,
        start: Encoder,
        tile_px: int,
        mpp: float,
        frozen: Sequence[str] = (),
        augment: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if start.program is not None:
            raise BadArgumentError(
                f"encoder {start.name} is a program, which cannot be trained: name a network."
            )
        self.start, self.tile_px, self.mpp = start, tile_px, float(mpp)
        self.augmentation = Augmentation(augment or {})
        self.network = copy.deepcopy(start.module)
        self._layout = _layout(self.network)
        self.network.to(memory_format=self._layout)  # type: ignore[call-overload]
        self.input = copy.deepcopy(start.input)
        self._still = _freeze(self.network, frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> TileEncoder:
        """Training or evaluation mode, in which frozen batch norms always are."""
        super().train(mode)
        for norm in self._still:
            norm.eval()
        return self

    def forward(self, tiles: Tensor) -> Tensor:
        """(n, p, p, 3) uint8 to descriptors (n, D) float32."""
        return self._described(self._pixels(tiles))

    def together(self, bags: Sequence[Bag]) -> list[Bag]:
        """Bags of tiles as bags of descriptors, augmented, in one pass through the network.

        Batch norms so see the bags of a step mixed, and what they gather tells no slide apart.

        Raises
        ------
        ModelError
            The network cannot be trained on the tiles; names the slides.
        """
        parts = []
        for bag in bags:
            assert isinstance(bag.features, Tensor)
            turned = self.augmentation.turned(bag.features)
            parts.append(self.augmentation.coloured_(self._pixels(turned, normal=False)))
        pixels = self._normal_(parts[0] if len(parts) == 1 else torch.cat(parts))
        del parts
        try:
            features = self._described(pixels)
        except ValueError as error:  # batch norms of a single value
            raise ModelError(f"{listed([bag.name for bag in bags])}: {error}") from error
        found = torch.split(features, [bag.tiles for bag in bags])
        return [replace(bag, features=part) for bag, part in zip(bags, found, strict=True)]

    @torch.no_grad()
    def encode(self, tiles: Tensor | SlideTiles) -> Tensor:
        """Descriptors (n, D) of tiles (n, p, p, 3) or of a slide's, in evaluation mode."""
        training = self.training
        self.eval()
        device = next(self.network.parameters()).device
        chunks = torch.split(tiles, CHUNK) if isinstance(tiles, Tensor) else tiles.chunks(CHUNK)
        try:
            return torch.cat([self(chunk.to(device)) for chunk in chunks])
        finally:
            self.train(training)

    def trained(self) -> Encoder:
        """The encoder as it stands, on the processor."""
        spec = self.start.spec
        network = copy.deepcopy(self.network).cpu()
        name = f"{spec.name} (trained end to end)"
        return Encoder(spec, network, self.start.preprocessing, name, rebuildable=False)

    def _pixels(self, tiles: Tensor, normal: bool = True) -> Tensor:
        """(n, p, p, 3) to (n, 3, p, p) float32, laid out in memory as the network is."""
        pixels = tiles.permute(0, 3, 1, 2).float().contiguous(memory_format=self._layout)
        return self._normal_(pixels) if normal else pixels

    def _normal_(self, pixels: Tensor) -> Tensor:
        """What :class:`~napari_wsi_xai.models.encoders.encoder.TileInput` does, in place."""
        size = self.input.input_px
        if size is not None and tuple(pixels.shape[-2:]) != (size, size):
            pixels = nn.functional.interpolate(
                pixels, size=(size, size), mode="bilinear", antialias=True
            ).contiguous(memory_format=self._layout)
        return pixels.sub_(self.input.mean).mul_(self.input.scale)

    def _described(self, pixels: Tensor) -> Tensor:
        try:
            return self.network(pixels).float()  # type: ignore[no-any-return]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ModelError(
                f"encoder {self.start.name} cannot run on tiles of {tuple(pixels.shape[-2:])} "
                f"pixels: {str(error).strip().splitlines()[0]}"
            ) from error


def _layout(network: nn.Module) -> torch.memory_format:
    """Channels last, which is faster, but where that writes beyond its memory.

    oneDNN does (uxlfoundation/oneDNN#6035) in gradients of strided 1 x 1 convolutions of fewer
    channels than a vector has numbers.
    """
    for module in network.modules():
        narrow = isinstance(module, nn.Conv2d) and module.in_channels // module.groups < 16
        if narrow and set(module.kernel_size) == {1} and max(module.stride) > 1:  # type: ignore[arg-type]
            return torch.contiguous_format
    return torch.channels_last


def _freeze(network: nn.Module, frozen: Sequence[str]) -> list[nn.Module]:
    """Let all parameters but the frozen ones be trained; returns the batch norms that are not."""
    names = [name for name, _ in network.named_parameters()]
    unknown = [one for one in frozen if one != "all" and not any(_within(n, one) for n in names)]
    if unknown:
        parts = dict.fromkeys(".".join(name.split(".")[:2]) for name in names)
        raise BadArgumentError(
            f"frozen={listed(unknown)}: no parameter of the encoder has a name that begins so; "
            f"they begin with {', '.join(parts)}."
        )
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not _frozen(name, frozen))
    return [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and _frozen(name, frozen)
    ]


def _frozen(name: str, frozen: Sequence[str]) -> bool:
    return any(one == "all" or _within(name, one) for one in frozen)


def _within(name: str, beginning: str) -> bool:
    """Whether a dotted name begins with these whole parts."""
    return f"{name}.".startswith(f"{beginning.rstrip('.')}.")

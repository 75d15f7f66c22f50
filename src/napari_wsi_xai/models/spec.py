"""What an encoder is built from: plain values that travel to other processes and into JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from napari_wsi_xai.errors import BadArgumentError

__all__ = ["ENCODER_KINDS", "IMAGENET", "EncoderSpec", "Preprocessing"]

ENCODER_KINDS = ("torchvision", "timm", "torchscript", "torch-export", "small", "bagnet")
"""Kinds of encoders: two network libraries, two file formats, the package's own small CNN, and
BagNets."""


@dataclass(frozen=True)
class Preprocessing:
    """How uint8 RGB becomes what a network was trained on.

    ``x = (tile / 255 - mean) / std`` per channel. Tiles keep their size unless the network accepts
    one size only; nothing is ever cut off, because the rim of a tile is tissue too.

    Attributes
    ----------
    mean, std
        Per channel, RGB, in units of 0..1.
    input_px
        Edge in pixels to which tiles are resampled (bilinear, antialiased), where the network
        takes no other size; ``None`` leaves tiles as they are.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_px: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", _three(self.mean, "mean"))
        object.__setattr__(self, "std", _three(self.std, "std"))
        if min(self.std) <= 0:
            raise BadArgumentError(f"std={self.std} of a preprocessing must be above 0.")
        if self.input_px is not None and self.input_px < 1:
            raise BadArgumentError(f"input_px={self.input_px} must be at least 1 pixel, or None.")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values; :meth:`from_dict` reads them."""
        return {"mean": list(self.mean), "std": list(self.std), "input_px": self.input_px}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Read what :meth:`to_dict` wrote.

        Raises
        ------
        BadArgumentError
            A value is missing or out of its limits.
        """
        try:
            size = values.get("input_px")
            return cls(values["mean"], values["std"], None if size is None else int(size))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, BadArgumentError):
                raise
            raise BadArgumentError(
                f"A preprocessing needs 'mean' and 'std' of three numbers, not {values!r}."
            ) from error


def _three(values: Any, name: str) -> tuple[float, float, float]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != 3:
        raise BadArgumentError(f"{name}={values} must hold three numbers, one for R, G and B.")
    return numbers


IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The ImageNet statistics, used where weights bring no preprocessing of their own."""


@dataclass(frozen=True)
class EncoderSpec:
    """Everything a process needs to rebuild an encoder.

    Attributes
    ----------
    kind
        One of :data:`ENCODER_KINDS`.
    name
        The network's name in its library (``"resnet50"``, ``"hf-hub:owner/name"``), widths of the
        small CNN (``"small"`` or ``"small-24-48-96-128"``), a BagNet (``"bagnet17"`` or, with
        narrower stages, ``"bagnet17-16"``), or the stem of a program file.
    weights
        ``"DEFAULT"`` or a named set of the library's weights; a path (state dict ``.pth`` or
        ``.safetensors``, TorchScript, ``.pt2``, or a model bundle); ``None`` for seeded random
        weights.
    seed
        Seed of the random weights; without effect on others.
    preprocessing
        Overrides what the weights' own metadata say.
    """

    kind: str
    name: str
    weights: str | None = None
    seed: int = 0
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        if self.kind not in ENCODER_KINDS:
            raise BadArgumentError(
                f"encoder kind {self.kind!r} is unknown; it is one of {', '.join(ENCODER_KINDS)}."
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values; :meth:`from_dict` reads them."""
        values = asdict(self)
        values["preprocessing"] = self.preprocessing and self.preprocessing.to_dict()
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderSpec:
        """Read what :meth:`to_dict` wrote.

        Raises
        ------
        BadArgumentError
            A value is missing or of an unknown kind.
        """
        try:
            preprocessing = values.get("preprocessing")
            return cls(
                kind=str(values["kind"]),
                name=str(values["name"]),
                weights=values.get("weights"),
                seed=int(values.get("seed", 0)),
                preprocessing=preprocessing and Preprocessing.from_dict(preprocessing),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise BadArgumentError(
                f"An encoder needs 'kind' and 'name', not {values!r}."
            ) from error

"""The model bundle: encoder, MIL head, tile geometry and class names, in one place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.encoders import build_encoder
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.mil import MIL_ARCHITECTURES, MILModel, build_mil
from napari_wsi_xai.models.spec import EncoderSpec
from napari_wsi_xai.models.tensor_files import hash_bytes, hash_tensors

__all__ = ["Model", "build_model", "load_model", "save_model"]

_LATER: dict[str, dict[str, Any]] = {"chowder": {"score_hidden": [], "weldon": None}}
"""Arguments that came after the first bundles, and values that leave a head as it was before:
left out of what is hashed and written, so that earlier bundles and stores stay valid."""


@dataclass(frozen=True, eq=False)
class Model:
    """Everything that turns a slide into tile scores and class probabilities.

    Attributes
    ----------
    encoder
        f_e.
    mil
        f_s, f_a and f_cls.
    tile_px, mpp
        Edge of a tile in pixels, at this many micrometres per pixel; the finest where the head
        looks at several magnifications.
    classes
        Names of the classes, in the order of the probabilities.
    name
        For people and file names.
    metadata
        Free JSON-able values; ``metadata["trained"]`` is False for a head with random weights.
    mpps
        Micrometres per pixel of every magnification, coarse to fine, each a whole multiple of
        the next; ``(mpp,)`` where there is one.
    content_hash
        ``"sha256:..."`` of everything that decides the numbers: weights, preprocessing, head,
        tile geometry and classes; not of name, path or metadata. Taken when the model is made.

    Raises
    ------
    BadArgumentError
        Parts do not fit each other; the message names both numbers.
    """

    encoder: Encoder
    mil: MILModel
    tile_px: int
    mpp: float
    classes: tuple[str, ...]
    name: str = "model"
    content_hash: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    mpps: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(str(name) for name in self.classes))
        object.__setattr__(self, "mpp", float(self.mpp))
        # One magnification is ``mpp`` alone, so that replace(model, mpp=...) does what it says.
        several = len(self.mpps) > 1
        object.__setattr__(self, "mpps", tuple(map(float, self.mpps)) if several else (self.mpp,))
        self._check()
        self._check_magnifications()
        object.__setattr__(self, "content_hash", _content_hash(self))

    def _check(self) -> None:
        side_by_side = self.mil.num_magnifications if self._concatenates else 1
        if self.encoder.dim * side_by_side != self.mil.in_features:
            each = f" for each of {side_by_side} magnifications" if side_by_side > 1 else ""
            raise BadArgumentError(
                f"encoder {self.encoder.name} gives descriptors of length {self.encoder.dim}"
                f"{each}, but the {self.mil.architecture} head takes {self.mil.in_features}."
            )
        if len(self.classes) != self.mil.num_classes or len(set(self.classes)) < len(self.classes):
            raise BadArgumentError(
                f"classes {', '.join(self.classes)}: the {self.mil.architecture} head needs "
                f"{self.mil.num_classes} different names."
            )
        if self.tile_px < 1 or not self.mpp > 0:
            raise BadArgumentError(
                f"tile_px={self.tile_px} and mpp={self.mpp} must both be above 0."
            )

    @property
    def _concatenates(self) -> bool:
        return self.mil.magnification_use == "concat"

    def _check_magnifications(self) -> None:
        wanted, given = self.mil.num_magnifications, ", ".join(f"{mpp:g}" for mpp in self.mpps)
        if len(self.mpps) != wanted:
            raise BadArgumentError(
                f"the {self.mil.architecture} head looks at {wanted} magnification(s), but mpp="
                f"{given} states {len(self.mpps)}: give micrometres per pixel of each, coarse to "
                "fine."
            )
        if wanted == 1:
            return
        from napari_wsi_xai.tiles import mpp_ratios

        mpp_ratios(self.mpps)
        if self.mpp != self.mpps[-1]:
            raise BadArgumentError(
                f"mpp={self.mpp:g} is not the finest of mpps={given}: change the two together."
            )


def build_model(
    encoder: Encoder | EncoderSpec | str,
    mil: str = "abmil",
    classes: Sequence[str] = ("normal", "tumor"),
    *,
    tile_px: int = 224,
    mpp: float | Sequence[float] = 0.5,
    seed: int = 0,
    name: str | None = None,
    **arguments: Any,
) -> Model:
    """A model in memory: an encoder and a head with seeded random weights.

    Its maps mean nothing until the head is trained, so ``metadata["trained"]`` is False.

    Parameters
    ----------
    encoder
        An encoder, its spec, or its name (then untrained as well).
    mil
        A key of ``MIL_ARCHITECTURES``.
    classes
        Names of the classes.
    tile_px, mpp
        Edge of a tile in pixels, at this many micrometres per pixel; one number for each
        magnification, coarse to fine, for a head that looks at several.
    seed
        Seed of the head's weights.
    name
        For people; made of the parts' names where it is not given.
    **arguments
        What else the architecture takes.
    """
    if not isinstance(encoder, Encoder):
        encoder = build_encoder(encoder)
    mpps = tuple(mpp) if isinstance(mpp, Sequence) else (mpp,)
    if not mpps:
        raise BadArgumentError("mpp=() states no magnification: give micrometres per pixel.")
    if _takes_magnifications(mil) and len(mpps) > 1:
        arguments.setdefault("num_magnifications", len(mpps))
    head = _seeded_head(seed, mil, encoder.dim, len(classes), arguments)
    if head.magnification_use == "concat":
        length = encoder.dim * head.num_magnifications
        head = _seeded_head(seed, mil, length, len(classes), arguments)
    return Model(
        encoder,
        head,
        tile_px,
        mpps[-1],
        tuple(classes),
        name or f"{encoder.spec.name.replace('/', '-')}-{mil}-untrained",
        metadata={"trained": False, "seed": seed},
        mpps=mpps,
    )


def _takes_magnifications(architecture: str) -> bool:
    head = MIL_ARCHITECTURES.get(architecture)
    return head is not None and "num_magnifications" in signature(head).parameters


def _seeded_head(
    seed: int, mil: str, length: int, classes: int, arguments: dict[str, Any]
) -> MILModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_mil(mil, length, classes, **arguments)


def model_config(model: Model) -> dict[str, Any]:
    """What decides a model's numbers besides its tensors, JSON-able."""
    architecture, later = model.mil.architecture, _LATER.get(model.mil.architecture, {})
    arguments = {
        name: value
        for name, value in model.mil.arguments.items()
        if name not in later or value != later[name]
    }
    return {
        "mil": {"architecture": architecture, "arguments": arguments},
        "tile_px": model.tile_px,
        "mpp": model.mpp,
        "classes": list(model.classes),
        **({"mpps": list(model.mpps)} if len(model.mpps) > 1 else {}),
    }


def _content_hash(model: Model) -> str:
    config = json.dumps(model_config(model), sort_keys=True).encode()
    head = hash_tensors(model.mil.state_dict()).encode()
    return "sha256:" + hash_bytes(model.encoder.content_hash.encode(), config, head)


def load_model(path: str | Path) -> Model:
    """Open a model bundle.

    Parameters
    ----------
    path
        A directory with ``model.json``, or a single ``.safetensors`` file.

    Raises
    ------
    WeightsNotFoundError
        Nothing is there, or the bundle refers to weights that are not cached.
    ModelFileError
        No bundle, damaged, of a newer schema, or with an unknown architecture. Nothing in the
        file is ever executed, unless it is a bundle around a TorchScript or ``torch.export``
        program, which is one.
    """
    from napari_wsi_xai.models.bundle_files import read_bundle

    return read_bundle(Path(path))


def save_model(
    model: Model,
    path: str | Path,
    *,
    embed_encoder: bool | None = None,
    dtype: str = "float32",
) -> Path:
    """Write a model bundle, atomically.

    Parameters
    ----------
    model
        What to write.
    path
        A name that ends in ``.safetensors`` gives one file, any other a directory.
    embed_encoder
        Whether the encoder's weights go into the bundle. ``None``: unless a library publishes
        them under a name, or they are seeded and untrained.
    dtype
        ``"float32"``, or ``"float16"`` for half the size; the weights are rounded to it, and
        restored to float32 when loaded.

    Returns
    -------
    Path
        Where the bundle is.

    Raises
    ------
    BadArgumentError
        Unknown ``dtype``, or an encoder that cannot be referred to by name.
    ModelFileError
        The place cannot be written.
    """
    from napari_wsi_xai.models.bundle_files import write_bundle

    return write_bundle(model, Path(path), embed_encoder, dtype)

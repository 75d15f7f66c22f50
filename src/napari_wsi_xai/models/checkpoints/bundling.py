"""An author's checkpoint and the encoder that it was trained with, as one model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.bundle import Model
from napari_wsi_xai.models.checkpoints.importing import open_head
from napari_wsi_xai.models.checkpoints.own_heads import require_classes
from napari_wsi_xai.models.encoder_lengths import encoders_of_length
from napari_wsi_xai.models.encoders import build_encoder
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.mil import MILModel
from napari_wsi_xai.models.spec import EncoderSpec
from napari_wsi_xai.models.tensor_files import hash_tensors

__all__ = ["bundle_checkpoint"]


def bundle_checkpoint(
    path: str | Path | Mapping[str, Any],
    encoder: Encoder | EncoderSpec | str,
    classes: Sequence[str],
    tile_px: int,
    mpp: float | Sequence[float],
    architecture: str | None = None,
    encoder_weights: str | None = None,
    **options: Any,
) -> Model:
    """An author's checkpoint with its encoder and tile geometry, as a model that scores slides.

    Parameters
    ----------
    path
        The checkpoint; see :func:`import_checkpoint`.
    encoder
        An encoder, its spec, or its name: the one that the head was trained on.
    classes
        Names of the classes, in the order of the head's logits.
    tile_px, mpp
        Edge of a tile in pixels, at this many micrometres per pixel, as in training; one number
        for each magnification, coarse to fine, for a head that looks at several.
    architecture, **options
        What the file does not tell; see :func:`import_checkpoint`.
    encoder_weights
        Where ``encoder`` is a name: see :func:`build_encoder`.

    Returns
    -------
    Model
        Its metadata hold the published code and the SHA-256 of the file.

    Raises
    ------
    BadArgumentError
        The parts do not fit each other; the message names both numbers.
    WeightsNotFoundError, ModelFileError, CheckpointError
        A file cannot be had, read, or recognised.
    """
    mpps = tuple(mpp) if isinstance(mpp, Sequence) else (mpp,)
    match, contents = open_head(path, architecture, options)
    if len(mpps) > 1 and _may_take(len(mpps), match.head, options):
        # The lengths of concatenated descriptors do not tell of how many they are.
        options["num_magnifications"] = len(mpps)
        match, contents = open_head(path, architecture, options)
    require_classes(contents, classes)
    if not isinstance(encoder, Encoder):
        encoder = build_encoder(encoder, encoder_weights)
    _require_length(encoder, match.head)
    stem = match.layout.architecture if isinstance(path, Mapping) else Path(path).stem
    return Model(
        encoder,
        match.head,
        tile_px,
        mpps[-1],
        tuple(classes),
        f"{stem}-{encoder.spec.name.replace('/', '-')}",
        metadata={
            **(contents.own or {}).get("metadata", {}),
            "trained": True,
            "source": match.layout.source,
            "checkpoint": contents.origin.strip("'"),
            "checkpoint_hash": f"sha256:{_sha256(path)}",
        },
        mpps=mpps,
    )


def _may_take(magnifications: int, head: MILModel, options: Mapping[str, Any]) -> bool:
    return (
        "num_magnifications" in signature(type(head)).parameters
        and "num_magnifications" not in options
        and head.num_magnifications != magnifications
    )


def _require_length(encoder: Encoder, head: MILModel) -> None:
    several = head.num_magnifications if head.magnification_use == "concat" else 1
    if encoder.dim * several == head.in_features:
        return
    wanted, odd = divmod(head.in_features, several)
    each = f" ({wanted} for each of {several} magnifications side by side)" if several > 1 else ""
    fitting = () if odd else encoders_of_length(wanted)
    known = f"; {wanted} have {', '.join(fitting)} and others" if fitting else ""
    raise BadArgumentError(
        f"encoder {encoder.name} gives descriptors of length {encoder.dim}, but the "
        f"{head.architecture} head takes {head.in_features}{each}: name the encoder that it was "
        f"trained with{known}."
    )


def _sha256(source: str | Path | Mapping[str, Any]) -> str:
    if isinstance(source, Mapping):
        return hash_tensors({k: v for k, v in source.items() if hasattr(v, "detach")})
    with Path(source).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

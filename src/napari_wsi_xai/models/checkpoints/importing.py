"""Authors' checkpoints as heads of this package."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_wsi_xai.errors import BadArgumentError, CheckpointError
from napari_wsi_xai.models.checkpoints.own_heads import own_head
from napari_wsi_xai.models.checkpoints.reading import Contents, read_checkpoint
from napari_wsi_xai.models.checkpoints.recognition import (
    Match,
    Misfit,
    fit_options,
    recognise,
)
from napari_wsi_xai.models.encoders.recognition import origin_of, recognise_encoder
from napari_wsi_xai.models.mil import HEADS, MILModel

__all__ = ["find_heads", "import_checkpoint", "open_head"]

Source = str | Path | Mapping[str, Any]


def import_checkpoint(source: Source, architecture: str | None = None, **options: Any) -> MILModel:
    """Open an author's checkpoint as a MIL head.

    The head is recognised by the names and shapes of its tensors; prefixes that DataParallel,
    Lightning and ``torch.compile`` put into names do not matter. Nothing in the file is executed.

    Parameters
    ----------
    source
        A PyTorch or ``.safetensors`` file, or a state dict.
    architecture
        A key of ``MIL_ARCHITECTURES``; needed only where the same tensors fit several.
    **options
        Arguments of the architecture that tensors do not tell (TransMIL's ``crop``, ZoomMIL's
        ``k_sample``, CHOWDER's ``order``); :func:`inspect_checkpoint` lists them.

    Returns
    -------
    MILModel
        In eval mode, float32, with the checkpoint's weights.

    Raises
    ------
    WeightsNotFoundError
        No such file.
    CheckpointError
        No head fits the tensors; the message tells what comes nearest and what is in the way.
    ModelFileError
        The file is damaged, or holds other objects than tensors.
    BadArgumentError
        Several architectures fit, or an option is unknown or contradicts the tensors.

    Examples
    --------
    >>> head = import_checkpoint("s_0_checkpoint.pt")
    >>> head(features).attention
    """
    match, _ = open_head(source, architecture, options)
    return match.head


def open_head(
    source: Source, architecture: str | None, options: Mapping[str, Any]
) -> tuple[Match, Contents]:
    """The one head that fits, with the checkpoint's weights, and what else the file holds.

    Raises
    ------
    WsiXaiError
        See :func:`import_checkpoint`.
    """
    contents = read_checkpoint(source)
    found = find_heads(contents, architecture, options)
    if len(found) > 1:
        names = " or ".join(repr(match.layout.architecture) for match in found)
        raise BadArgumentError(
            f"the tensors of {contents.origin} fit several heads: say which, architecture={names}."
        )
    match = found[0]
    _require_finite(match.tensors, contents.origin)
    match.head.load_state_dict(match.tensors)
    match.head.eval()
    return match, contents


def find_heads(
    contents: Contents, architecture: str | None, options: Mapping[str, Any]
) -> list[Match]:
    """Heads that fit a checkpoint's tensors, built with ``options``.

    Raises
    ------
    BadArgumentError, CheckpointError
        See :func:`import_checkpoint`.
    """
    try:
        own = own_head(contents, architecture)
        found = [own] if own else recognise(contents.tensors, contents.origin, architecture)
    except CheckpointError as error:
        encoders = recognise_encoder(contents.tensors)
        if encoders:
            raise CheckpointError(
                f"{contents.origin} holds the weights of an encoder ({origin_of(encoders[0])}) "
                "and no MIL head: give it as the encoder's weights."
            ) from error
        raise
    if not options:
        return found
    return [_with_options(match, options, contents.origin) for match in found]


def _with_options(match: Match, options: Mapping[str, Any], origin: str) -> Match:
    name = match.layout.architecture
    taken = list(inspect.signature(HEADS[name].__init__).parameters)[1:]
    unknown = [option for option in options if option not in taken]
    if unknown:
        raise BadArgumentError(f"{name} has no option {unknown[0]!r}; it takes {', '.join(taken)}.")
    tried = fit_options(match, options)
    if isinstance(tried, Misfit):
        given = ", ".join(f"{option}={value!r}" for option, value in options.items())
        told = ", ".join(
            f"{option}={match.inferred[option]!r}" for option in options if option in match.inferred
        )
        if tried.refused and not told:
            raise BadArgumentError(f"{tried}.")
        says = f", which say {told}" if told else ""
        raise BadArgumentError(f"{given} contradicts the tensors of {origin}{says}: {tried}.")
    return tried


def _require_finite(tensors: Mapping[str, Tensor], origin: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{origin} cannot be used: the weights of {name} are not all finite numbers."
            )

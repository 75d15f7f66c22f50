"""A checkpoint of any form as one flat dict of tensors, and what is written beside them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from napari_wsi_xai.errors import BadArgumentError, ModelFileError
from napari_wsi_xai.models.encoders.loading import BUNDLE_KEY
from napari_wsi_xai.models.tensor_files import (
    load_weights_only,
    read_safetensors,
    read_safetensors_metadata,
    require_file,
)

__all__ = ["HEAD_KEY", "Contents", "is_bundle", "read_checkpoint"]

HEAD_KEY = "napari_wsi_xai_head"
"""Entry of a ``.safetensors`` header with the JSON of a head trained by this package, under its own
tensor names: architecture, arguments, classes, metadata."""

_CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "model_state")
_TRAINING = re.compile(r"optim|sched|scaler|callback|loops|hyper_?param|^ema|^rng|_rng", re.I)
_LONGEST_TEXT = 200


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes
    ----------
    tensors
        By the author's names; parts that were saved apart carry their names as prefixes.
    facts
        Numbers and short texts saved beside the tensors: epoch, loss, AUC. JSON-able.
    origin
        Name of the file, for messages.
    own
        What a head that this package trained says of itself, see :data:`HEAD_KEY`.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    origin: str = "the state dict"
    own: dict[str, Any] | None = None


def read_checkpoint(source: str | Path | Mapping[str, Any]) -> Contents:
    """Read a checkpoint without running anything in it.

    Parameters
    ----------
    source
        A PyTorch file, a ``.safetensors`` file, or what one holds: a state dict, one nested in a
        dict, or a dict of several (the parts of DTFD-MIL). What optimisers and schedulers keep is
        left out.

    Raises
    ------
    BadArgumentError
        ``source`` is neither a path nor a mapping.
    WeightsNotFoundError
        No such file.
    ModelFileError
        The file is damaged, holds other objects than tensors, or no tensors.
    """
    if isinstance(source, Mapping):
        return _contents(source, "the state dict")
    if not isinstance(source, str | Path):
        raise BadArgumentError(
            f"a checkpoint is a path or a state dict, not {type(source).__name__}."
        )
    path = Path(source).expanduser()
    if is_bundle(path):
        raise ModelFileError(f"{path.name!r} is a model bundle already: `load_model` opens it.")
    require_file(path)
    if path.suffix != ".safetensors":
        return _contents(load_weights_only(path), repr(path.name))
    header = read_safetensors_metadata(path)
    own = _own(header, path)
    facts = _facts({name: text for name, text in header.items() if name != HEAD_KEY})
    return Contents(read_safetensors(path), facts, repr(path.name), own)


def _own(header: Mapping[str, str], path: Path) -> dict[str, Any] | None:
    if HEAD_KEY not in header:
        return None
    try:
        own = json.loads(header[HEAD_KEY])
        return {**own, "arguments": dict(own["arguments"]), "classes": list(own["classes"])}
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path.name!r} is damaged: what it says of its head cannot be read ({error})."
        ) from error


def is_bundle(path: Path) -> bool:
    """Whether ``path`` is a model bundle of this package, in either form.

    Raises
    ------
    ModelFileError
        It ends in ``.safetensors`` and is no such file.
    """
    if path.suffix == ".safetensors" and path.is_file():
        return BUNDLE_KEY in read_safetensors_metadata(path)
    return (path / "model.json").is_file()


def _contents(loaded: Any, origin: str) -> Contents:
    tensors = _flat(loaded) if isinstance(loaded, Mapping) else {}
    if not tensors:
        raise ModelFileError(f"{origin} holds no state dict (names with tensors).")
    return Contents(tensors, _facts(loaded), origin)


def _flat(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Tensor]:
    for key in _CONTAINERS:
        inner = values.get(key)
        found = _flat(inner, prefix) if isinstance(inner, Mapping) else {}
        if found:
            return found
    flat: dict[str, Tensor] = {}
    for key, value in values.items():
        if isinstance(value, Tensor):
            flat[f"{prefix}{key}"] = value.detach()
        elif isinstance(value, Mapping) and not _TRAINING.search(str(key)):
            flat |= _flat(value, f"{prefix}{key}.")
    return flat


def _facts(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Plain values at the top of a checkpoint, as JSON takes them."""
    facts: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Tensor):
            continue
        if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
            value = value.item()  # a NumPy scalar
        if isinstance(value, float) and not math.isfinite(value):
            value = str(value)
        if isinstance(value, bool | int | float) or (
            isinstance(value, str) and len(value) <= _LONGEST_TEXT
        ):
            facts[str(key)] = value
    return facts

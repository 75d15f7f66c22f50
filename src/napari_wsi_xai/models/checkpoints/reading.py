"""A checkpoint of any form as one flat dict of tensors, and what is written beside them."""

from __future__ import annotations

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

__all__ = ["Contents", "is_bundle", "read_checkpoint"]

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
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    origin: str = "the state dict"


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
    facts = _facts(read_safetensors_metadata(path))
    return Contents(read_safetensors(path), facts, repr(path.name))


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

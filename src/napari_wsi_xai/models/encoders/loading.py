"""Putting a state dict into an encoder's network: prefixes, heads that are left out, messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from napari_wsi_xai.errors import ModelFileError
from napari_wsi_xai.models.tensor_files import (
    read_safetensors,
    read_safetensors_metadata,
    read_state_dict,
)

__all__ = ["fitting_weights", "load_weights", "read_weights"]

_PREFIXES = ("module.", "_orig_mod.", "model.", "encoder.", "backbone.", "net.", "network.")
BUNDLE_KEY = "napari_wsi_xai"
"""Key of the JSON in the header of a bundle that is one safetensors file."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of an encoder from a state-dict file or from a model bundle of either form.

    Raises
    ------
    WeightsNotFoundError, ModelFileError
        Nothing there; damaged, of another kind, or with code inside.
    """
    if path.is_dir():
        return read_state_dict(path / "encoder.safetensors")
    if path.suffix == ".safetensors" and path.is_file():
        metadata = read_safetensors_metadata(path)
        if BUNDLE_KEY in metadata:
            return read_safetensors(path, prefix="encoder.")
    return read_state_dict(path)


def bundled_preprocessing(path: Path) -> Mapping[str, object] | None:
    """The encoder's preprocessing that a bundle states; ``None`` where ``path`` is no bundle."""
    try:
        if path.is_dir():
            config = json.loads((path / "model.json").read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            config = json.loads(read_safetensors_metadata(path)[BUNDLE_KEY])
        else:
            return None
        found = config["encoder"]["preprocessing"]
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return found if isinstance(found, Mapping) else None


def load_weights(
    module: nn.Module, tensors: Mapping[str, Tensor], origin: str, ignorable: Iterable[str] = ()
) -> None:
    """Load ``tensors`` into ``module``, every one of whose own weights must be there.

    Prefixes of wrappers (``module.`` of DataParallel, ``model.``, ...) are taken off where all
    names carry them.

    Parameters
    ----------
    module
        The network without its classifier.
    tensors
        Names with values.
    origin
        Name of the file, for the message.
    ignorable
        Beginnings of names that the file may hold beyond the network (its classifier).

    Raises
    ------
    ModelFileError
        Tensors are missing, unknown, or of another shape; the message names the first of them.
    """
    module.load_state_dict(
        fitting_weights(module.state_dict(), tensors, origin, ignorable), strict=False
    )


def fitting_weights(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    origin: str,
    ignorable: Iterable[str] = (),
) -> dict[str, Tensor]:
    """Those of ``tensors`` that a network with the state dict ``own`` takes, by its names.

    Raises
    ------
    ModelFileError
        See :func:`load_weights`.
    """
    given = _without_prefixes(tensors, own)
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    _require_none("lacks", [name for name in needed if name not in given], origin)
    ignorable = tuple(ignorable)
    unknown = [n for n in given if n not in own and not (ignorable and n.startswith(ignorable))]
    _require_none("holds, unknown to the network,", unknown, origin)
    for name in needed:
        if given[name].shape != own[name].shape:
            raise ModelFileError(
                f"{origin}: tensor {name!r} has shape {tuple(given[name].shape)}, but the network "
                f"named has {tuple(own[name].shape)} there: name the network it was saved from."
            )
    return {name: given[name] for name in own if name in given}


def _without_prefixes(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    found = dict(tensors)
    while found and not any(name in own for name in found):
        prefix = next((p for p in _PREFIXES if all(n.startswith(p) for n in found)), None)
        if prefix is None:
            break
        found = {name[len(prefix) :]: tensor for name, tensor in found.items()}
    return found


def _require_none(what: str, names: list[str], origin: str) -> None:
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ModelFileError(
            f"{origin} {what} the tensor {names[0]!r}{more}: is it the state dict of this network?"
        )

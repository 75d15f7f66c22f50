"""Named tensors in files: safetensors and state dicts, read without running anything in them."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_wsi_xai.errors import ModelFileError, WeightsNotFoundError

__all__ = [
    "hash_bytes",
    "hash_tensors",
    "load_weights_only",
    "read_safetensors",
    "read_safetensors_metadata",
    "read_state_dict",
    "require_file",
]

_CONTAINERS = ("state_dict", "model_state_dict", "model", "teacher", "encoder")
_MAPPED_BYTES = 256 * 2**20
"""Zip files above this are mapped, so that they need no memory of their own."""

_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_SCALARS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),  # the same since NumPy 2
    np.dtype,
    type(np.dtype(np.float64)),
]
"""What training codes save beside their tensors: a loss, an AUC. Making one runs no code."""
_allowing = threading.Lock()  # torch keeps one list of allowed names for all threads
_NAMED = re.compile(r"GLOBAL ([\w.]+)|got <class '([\w.]+)'>")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors`` or a PyTorch file (``weights_only=True``).

    A state dict nested in a checkpoint under ``state_dict``, ``model_state_dict`` or ``model`` is
    taken out. Nothing in the file is executed.

    Raises
    ------
    WeightsNotFoundError
        No such file.
    ModelFileError
        The file is damaged, of another kind, or holds objects other than tensors.
    """
    require_file(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return _tensors_of(load_weights_only(path), path)


def require_file(path: Path) -> None:
    """Raise ``WeightsNotFoundError`` unless ``path`` is a file."""
    if not path.is_file():
        raise WeightsNotFoundError(f"There is no weights file {str(path)!r}: check the path.")


def load_weights_only(path: Path) -> Any:
    """What a PyTorch file holds: tensors, plain values and NumPy's float scalars, nothing else.

    Tensors of large files are mapped from them, so copy what is kept. The checksums of files in
    the zip format are verified, which PyTorch itself does not do.

    Raises
    ------
    ModelFileError
        The file is truncated, damaged or of another kind, or names any other Python object; the
        message names it. Nothing in the file is executed.
    """
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _verify(path)
        mapped = zipped and path.stat().st_size > _MAPPED_BYTES
        with _numpy_scalars_allowed():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except ModelFileError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        raise ModelFileError(
            f"{path.name!r} is not a readable PyTorch weights file: it is truncated, damaged or "
            "of another kind."
        ) from error


@contextmanager
def _numpy_scalars_allowed() -> Iterator[None]:
    with _allowing:
        already = torch.serialization.get_safe_globals()
        with torch.serialization.safe_globals([e for e in _NUMPY_SCALARS if e not in already]):
            yield


def _verify(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise ModelFileError(
                f"{path.name!r} is a TorchScript program and no state dict: it can be an encoder."
            )
        damaged = archive.testzip()
    if damaged is not None:
        raise ModelFileError(
            f"{path.name!r} is damaged: the checksum of its record {damaged!r} is wrong."
        )


def _refused(path: Path, reason: str) -> ModelFileError:
    named = _NAMED.search(reason)
    what = f" ({named[1] or named[2]})" if named else ""
    return ModelFileError(
        f"{path.name!r} holds Python objects other than tensors{what} and was not loaded: "
        "save its state dict alone, best as .safetensors."
    )


def _tensors_of(loaded: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(loaded, Mapping):
        tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors
        inner = [loaded[key] for key in _CONTAINERS if isinstance(loaded.get(key), Mapping)]
        if not inner:
            break
        loaded = inner[0]
    raise ModelFileError(f"{path.name!r} holds no state dict (names with tensors).")


def read_safetensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Tensors of a safetensors file whose names start with ``prefix``, which is taken off.

    Raises
    ------
    ModelFileError
        The file is no safetensors file, or truncated.
    """
    from safetensors import safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            # cloned: the tensors must outlive the mapped file, which may be replaced meanwhile
            return {name[len(prefix) :]: file.get_tensor(name).clone() for name in names}
    except Exception as error:
        raise _not_safetensors(path) from error


def read_safetensors_metadata(path: Path) -> dict[str, str]:
    """The free text entries in the header of a safetensors file.

    Raises
    ------
    ModelFileError
        The file is no safetensors file, or truncated.
    """
    from safetensors import safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:
        raise _not_safetensors(path) from error


def _not_safetensors(path: Path) -> ModelFileError:
    return ModelFileError(
        f"{path.name!r} is not a readable safetensors file: it is truncated, damaged or of "
        "another kind."
    )


def hash_tensors(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, types, shapes and values, whatever the order, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(dict(tensors).items()):
        values = tensor.detach().cpu().contiguous()
        head = json.dumps([name, str(values.dtype), list(values.shape)])
        digest.update(head.encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_bytes(*parts: bytes) -> str:
    """SHA-256 over byte strings, as hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()

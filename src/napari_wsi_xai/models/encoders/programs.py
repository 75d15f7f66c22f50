"""Encoders that are serialized programs: TorchScript and ``torch.export`` files.

Such a file *is* a program, so running it computes what its author wrote; but no Python object in it
is unpickled. TorchScript archives are read by PyTorch's own C++ reader, which knows tensors and
script classes only. ``torch.export`` archives may hold pickled objects and expressions that
PyTorch would evaluate; archives that do are refused before PyTorch sees them.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_wsi_xai.errors import BadArgumentError, ModelFileError, WsiXaiError
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.encoders.export_check import require_plain_archive
from napari_wsi_xai.models.encoders.loading import BUNDLE_KEY
from napari_wsi_xai.models.spec import IMAGENET, EncoderSpec, Preprocessing
from napari_wsi_xai.models.tensor_files import (
    read_safetensors,
    read_safetensors_metadata,
    require_file,
)

__all__ = ["PREPROCESSING_FILE", "PROGRAM_TENSOR", "build_exported", "build_torchscript"]

PROGRAM_TENSOR = "program"
"""Name of the tensor of bytes that holds the program in a model bundle."""

PREPROCESSING_FILE = "preprocessing.json"
"""Extra file of a program that states its preprocessing (``mean``, ``std``, ``input_px``)."""

Load = Callable[[bytes, str], tuple[nn.Module, str]]


class Program(nn.Module):
    """A loaded program as a module: descriptors (n, D) whatever batch and form it was made for.

    Feature maps (n, D, h, w) are averaged over their positions. A program with a fixed number of
    tiles is called as often as needed.

    Parameters
    ----------
    program
        What was loaded.
    batch
        Tiles that it takes at a time; ``None`` for any number.
    """

    def __init__(self, program: nn.Module, batch: int | None = None) -> None:
        super().__init__()
        self.program = program
        self.batch = batch

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, p, p) normalised float to (n, D)."""
        if self.batch is None:
            return _pooled(self.program(x))
        missing = -x.shape[0] % self.batch
        whole = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
        parts = [_pooled(self.program(part)) for part in torch.split(whole, self.batch)]
        return torch.cat(parts)[: x.shape[0]]

    def train(self, mode: bool = True) -> Program:
        """Programs are made in eval mode and stay in it."""
        self.training = False
        if not isinstance(self.program, torch.fx.GraphModule):
            self.program.train(False)
        return self


def _pooled(out: Tensor) -> Tensor:
    if isinstance(out, Tensor) and out.ndim == 4:
        return out.mean(dim=(2, 3))
    return out


def build_torchscript(spec: EncoderSpec) -> Encoder:
    """Build an encoder of kind ``"torchscript"``.

    Raises
    ------
    WeightsNotFoundError, ModelFileError
        No such file; damaged or of another kind.
    """
    return _build(spec, _load_torchscript)


def build_exported(spec: EncoderSpec) -> Encoder:
    """Build an encoder of kind ``"torch-export"``.

    Raises
    ------
    WeightsNotFoundError, ModelFileError
        No such file; damaged, of another kind, or with pickled objects inside.
    """
    return _build(spec, _load_exported)


def _build(spec: EncoderSpec, load: Load) -> Encoder:
    if spec.weights is None:
        raise BadArgumentError(f"an encoder of kind {spec.kind!r} needs the path of its file.")
    path = Path(spec.weights)
    program = _program_bytes(path)
    try:
        module, stated = load(program, path.name)
    except WsiXaiError:
        raise
    except Exception as error:  # the readers raise whatever the damage leads to
        raise ModelFileError(
            f"{path.name!r} is not a readable {spec.kind} program: it is truncated, damaged or of "
            "another kind."
        ) from error
    preprocessing = spec.preprocessing or _stated(stated, path.name) or IMAGENET
    demanded = getattr(module, "demanded_px", None)
    if preprocessing.input_px is None and demanded is not None:
        preprocessing = Preprocessing(preprocessing.mean, preprocessing.std, demanded)
    assumed = "" if spec.preprocessing or stated else ", ImageNet statistics assumed"
    name = f"{spec.name} ({spec.kind}{assumed})"
    return Encoder(spec, module, preprocessing, name, program=program)


def _program_bytes(path: Path) -> bytes:
    """The program's file, or the program inside a bundle."""
    if path.is_dir():
        tensors = read_safetensors(path / "encoder.safetensors")
    elif path.suffix == ".safetensors" and path.is_file():
        if BUNDLE_KEY not in read_safetensors_metadata(path):
            raise ModelFileError(f"{path.name!r} holds tensors, not a program.")
        tensors = read_safetensors(path, prefix="encoder.")
    else:
        require_file(path)
        return path.read_bytes()
    if PROGRAM_TENSOR not in tensors:
        raise ModelFileError(f"model bundle {path.name!r} holds no encoder program.")
    return tensors[PROGRAM_TENSOR].numpy().tobytes()


def _stated(text: str, name: str) -> Preprocessing | None:
    if not text:
        return None
    try:
        return Preprocessing.from_dict(json.loads(text))
    except ValueError as error:
        raise ModelFileError(f"{PREPROCESSING_FILE} in {name!r} is damaged: {error}") from error


def _load_torchscript(program: bytes, name: str) -> tuple[nn.Module, str]:
    extra: dict[str, Any] = {PREPROCESSING_FILE: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.load(io.BytesIO(program), map_location="cpu", _extra_files=extra)  # type: ignore[no-untyped-call]
    stated = extra[PREPROCESSING_FILE]
    return Program(script), stated.decode() if isinstance(stated, bytes) else stated


def _load_exported(program: bytes, name: str) -> tuple[nn.Module, str]:
    require_plain_archive(program, name)
    extra: dict[str, Any] = {PREPROCESSING_FILE: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.load(io.BytesIO(program), extra_files=extra)
    exported._guards_code = []  # Python source about the sizes, which would be executed
    shape = _input_shape(exported)
    module = Program(exported.module(), shape[0])
    module.demanded_px = shape[-1]  # type: ignore[assignment]
    return module, extra[PREPROCESSING_FILE]


def _input_shape(exported: Any) -> tuple[int | None, ...]:
    """Sizes of the one input; ``None`` where any will do."""
    names = exported.graph_signature.user_inputs
    node = next(node for node in exported.graph.nodes if node.name == names[0])
    shape = node.meta["val"].shape
    return tuple(size if isinstance(size, int) else None for size in shape)

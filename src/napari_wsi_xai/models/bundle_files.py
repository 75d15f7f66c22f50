"""Reading and writing of model bundles: a directory, or one safetensors file."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_wsi_xai.errors import (
    BadArgumentError,
    ModelFileError,
    WeightsNotFoundError,
    WsiXaiError,
)
from napari_wsi_xai.models.bundle import Model, model_config
from napari_wsi_xai.models.encoders import build_encoder
from napari_wsi_xai.models.encoders.encoder import Encoder, encoder_tensors
from napari_wsi_xai.models.encoders.loading import BUNDLE_KEY, load_weights
from napari_wsi_xai.models.encoders.programs import PROGRAM_TENSOR
from napari_wsi_xai.models.mil import HEADS, MILModel, build_mil
from napari_wsi_xai.models.spec import EncoderSpec, Preprocessing
from napari_wsi_xai.models.tensor_files import read_safetensors, read_safetensors_metadata

__all__ = ["SCHEMA_VERSION", "read_bundle", "write_bundle"]

SCHEMA_VERSION = 1
_CONFIG = "model.json"
_ENCODER, _MIL = "encoder.safetensors", "mil.safetensors"
_DTYPES = {"float32": torch.float32, "float16": torch.float16}


def read_bundle(path: Path) -> Model:
    """See :func:`~napari_wsi_xai.models.load_model`."""
    path = path.expanduser().resolve()
    config = _read_config(path)
    try:
        return _model_of(config, path)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, WsiXaiError) and not isinstance(error, BadArgumentError):
            raise
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ModelFileError(f"model bundle {path.name!r} is damaged: {reason}.") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if path.is_dir():
            text = (path / _CONFIG).read_text(encoding="utf-8")
        elif path.is_file():
            text = _config_in_header(path)
        else:
            raise WeightsNotFoundError(f"There is no model {str(path)!r}: check the path.")
        config = json.loads(text)
    except FileNotFoundError as error:
        if isinstance(error, WeightsNotFoundError):
            raise
        raise ModelFileError(
            f"the folder {path.name!r} is no model bundle: it holds no {_CONFIG}."
        ) from error
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{_CONFIG} of {path.name!r} is damaged: {error}.") from error
    return _known(config, path)


def _config_in_header(path: Path) -> str:
    if path.suffix != ".safetensors":
        raise ModelFileError(
            f"{path.name!r} is no model bundle: that is a folder with {_CONFIG}, or one "
            ".safetensors file."
        )
    metadata = read_safetensors_metadata(path)
    if BUNDLE_KEY not in metadata:
        raise ModelFileError(
            f"{path.name!r} holds tensors but no model description: it is no model bundle."
        )
    return metadata[BUNDLE_KEY]


def _known(config: Any, path: Path) -> dict[str, Any]:
    version = config.get("schema_version") if isinstance(config, dict) else None
    if version != SCHEMA_VERSION:
        raise ModelFileError(
            f"model bundle {path.name!r} has schema version {version}, but this version of "
            f"napari-wsi-xai reads {SCHEMA_VERSION}."
        )
    architecture = config.get("mil", {}).get("architecture")
    if architecture not in HEADS:
        raise ModelFileError(
            f"model bundle {path.name!r} has the MIL architecture {architecture!r}; known are "
            f"{', '.join(HEADS)}."
        )
    return config  # type: ignore[no-any-return]


def _model_of(config: Mapping[str, Any], path: Path) -> Model:
    model = Model(
        _encoder_of(config["encoder"], path),
        _mil_of(config["mil"], path),
        int(config["tile_px"]),
        float(config["mpp"]),
        tuple(config["classes"]),
        str(config.get("name", path.stem)),
        metadata=dict(config.get("metadata", {})),
        mpps=tuple(config.get("mpps", ())),
    )
    if model.content_hash != config.get("content_hash"):
        raise ModelFileError(
            f"model bundle {path.name!r} is damaged: its contents do not have the hash it states."
        )
    return model


def _encoder_of(config: Mapping[str, Any], path: Path) -> Encoder:
    spec = EncoderSpec.from_dict(config["spec"])
    if config["embedded"]:
        spec = replace(spec, weights=str(path))
    spec = replace(spec, preprocessing=Preprocessing.from_dict(config["preprocessing"]))
    encoder = build_encoder(spec)
    if encoder.content_hash != config["content_hash"]:
        raise ModelFileError(
            f"the weights {spec.weights!r} of encoder {spec.name} are not those that "
            f"{path.name!r} was made with."
        )
    if not config.get("trained", True):
        encoder.trained = False
    encoder.name = str(config.get("name", encoder.name))
    return encoder


def _mil_of(config: Mapping[str, Any], path: Path) -> MILModel:
    mil = build_mil(config["architecture"], **config["arguments"])
    tensors = (
        read_safetensors(path / _MIL) if path.is_dir() else read_safetensors(path, prefix="mil.")
    )
    load_weights(mil, {name: t.float() for name, t in tensors.items()}, path.name)
    return mil


def write_bundle(model: Model, path: Path, embed: bool | None, dtype: str) -> Path:
    """See :func:`~napari_wsi_xai.models.save_model`."""
    if dtype not in _DTYPES:
        raise BadArgumentError(f"dtype={dtype!r} must be one of {', '.join(_DTYPES)}.")
    path = path.expanduser().absolute()
    embed = _embed(model.encoder, embed)
    encoder = _stored(_encoder_contents(model.encoder), dtype) if embed else {}
    mil = _stored(dict(model.mil.state_dict()), dtype)
    config = _config(_rounded(model, embed, dtype), model.encoder, embed)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            _write_file(path, config, encoder, mil)
        else:
            _write_folder(path, config, encoder, mil)
    except OSError as error:
        raise ModelFileError(
            f"model bundle {str(path)!r} cannot be written: {error.strerror or error}."
        ) from error
    return path


def _embed(encoder: Encoder, embed: bool | None) -> bool:
    weights = encoder.spec.weights
    referable = encoder.rebuildable and (weights is None or not Path(weights).exists())
    if embed is False and not referable:
        raise BadArgumentError(
            f"encoder {encoder.name} has weights that no library publishes: embed_encoder=False "
            "would lose them."
        )
    return not referable if embed is None else embed


def _encoder_contents(encoder: Encoder) -> dict[str, Tensor]:
    if encoder.program is not None:
        return {PROGRAM_TENSOR: torch.frombuffer(bytearray(encoder.program), dtype=torch.uint8)}
    return encoder_tensors(encoder.module)


def _stored(tensors: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    # Every tensor a copy of its own: safetensors refuses tensors that share memory.
    return {
        name: (t.to(_DTYPES[dtype]) if t.is_floating_point() else t).clone().contiguous()
        for name, t in tensors.items()
    }


def _rounded(model: Model, embed: bool, dtype: str) -> Model:
    """The model as it will be read back, whose hash the bundle states."""
    if dtype == "float32":
        return model
    mil = build_mil(model.mil.architecture, **model.mil.arguments)
    mil.load_state_dict(_as_float32(_stored(model.mil.state_dict(), dtype)))
    encoder = model.encoder
    if embed and encoder.program is None:
        import copy

        module = copy.deepcopy(encoder.module)
        tensors = _as_float32(_stored(encoder_tensors(module), dtype))
        module.load_state_dict(tensors, strict=False)
        encoder = Encoder(encoder.spec, module, encoder.preprocessing, encoder.name)
    return replace(model, encoder=encoder, mil=mil)


def _as_float32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}


def _config(model: Model, original: Encoder, embed: bool) -> dict[str, Any]:
    spec = replace(original.spec, preprocessing=None)
    if embed:
        spec = replace(spec, weights=None)  # where the weights came from is nobody's business
    return {
        "schema_version": SCHEMA_VERSION,
        "name": model.name,
        "encoder": {
            "spec": spec.to_dict(),
            "name": original.name,
            "embedded": embed,
            "trained": original.trained,
            "preprocessing": original.preprocessing.to_dict(),
            "content_hash": model.encoder.content_hash,
        },
        **model_config(model),
        "metadata": model.metadata,
        "content_hash": model.content_hash,
    }


def _write_file(
    path: Path, config: dict[str, Any], encoder: dict[str, Tensor], mil: dict[str, Tensor]
) -> None:
    from safetensors.torch import save

    tensors = {f"encoder.{n}": t for n, t in encoder.items()}
    tensors |= {f"mil.{n}": t for n, t in mil.items()}
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(save(tensors, {BUNDLE_KEY: json.dumps(config)}))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_folder(
    path: Path, config: dict[str, Any], encoder: dict[str, Tensor], mil: dict[str, Tensor]
) -> None:
    from safetensors.torch import save

    if path.exists() and not (path / _CONFIG).is_file():
        raise ModelFileError(
            f"{str(path)!r} is there already and is no model bundle: choose another name."
        )
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        if encoder:
            (folder / _ENCODER).write_bytes(save(encoder))
        (folder / _MIL).write_bytes(save(mil))
        (folder / _CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
        folder.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

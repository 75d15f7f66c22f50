"""Any network of timm, and of the Hugging Face hub through it (extra ``foundation``)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from torch import nn

from napari_wsi_xai.errors import (
    BadArgumentError,
    MissingExtraError,
    ModelFileError,
    WeightsNotFoundError,
)
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.encoders.loading import (
    bundled_preprocessing,
    load_weights,
    read_weights,
)
from napari_wsi_xai.models.spec import IMAGENET, EncoderSpec, Preprocessing
from napari_wsi_xai.models.torchvision_import import import_torchvision

__all__ = ["build_timm", "timm_names"]

_HUB = "hf-hub:"


def timm_names() -> list[str]:
    """Names of all networks of the installed timm.

    Raises
    ------
    MissingExtraError
        timm is not installed.
    """
    return list(_timm().list_models())


def build_timm(spec: EncoderSpec) -> Encoder:
    """Build an encoder of kind ``"timm"``: the network's pooled descriptor before its classifier.

    Raises
    ------
    MissingExtraError
        timm is not installed.
    BadArgumentError
        timm has no network of that name, or no such weights.
    WeightsNotFoundError, ModelFileError
        The weights cannot be had or do not fit.
    """
    timm = _timm()
    path = Path(spec.weights) if spec.weights else None
    named = path is not None and not path.exists()
    network = _with_tag(timm, spec) if named else spec.name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        module = _create(timm, network, spec, pretrained=named)
    stated = None
    if path is None:
        name = f"{spec.name} (untrained, seed {spec.seed})"
    elif named:
        name = f"{spec.name} ({module.pretrained_cfg.get('tag') or 'pretrained'})"
    else:
        load_weights(module, read_weights(path), path.name, _classifier_names(module))
        stated = bundled_preprocessing(path)
        name = f"{spec.name} ({path.name})"
    preprocessing = spec.preprocessing or (
        Preprocessing.from_dict(stated) if stated else _preprocessing(module)
    )
    return Encoder(spec, module, preprocessing, name, trained=spec.weights is not None)


def _timm() -> ModuleType:
    import_torchvision()  # timm imports it, and may meet its missing operators
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("timm", "foundation", "A timm or hf-hub: encoder") from error
    return timm  # type: ignore[no-any-return]


def _with_tag(timm: ModuleType, spec: EncoderSpec) -> str:
    """The name of network and weights together, as timm writes it (``resnet50.a1_in1k``)."""
    if spec.weights == "DEFAULT":
        return spec.name
    name = f"{spec.name.split('.')[0]}.{spec.weights}"
    if spec.name.startswith(_HUB) or name not in timm.list_pretrained():
        raise WeightsNotFoundError(
            f"weights {spec.weights!r} of {spec.name!r} are neither a file nor known to timm: "
            "give a path, 'DEFAULT', or the tag of published weights."
        )
    return name


def _create(timm: ModuleType, name: str, spec: EncoderSpec, *, pretrained: bool) -> Any:
    known = name.startswith((_HUB, "hf_hub:", "local-dir:")) or timm.is_model(name.split(".")[0])
    if not known:
        raise BadArgumentError(
            f"neither torchvision nor timm has a network {name!r}: `models list` shows them."
        )
    try:
        with _cache_only_when_unreachable(pretrained or not timm.is_model(name.split(".")[0])):
            return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except OSError as error:
        raise WeightsNotFoundError(_unreachable(timm, name, pretrained)) from error
    except (RuntimeError, ValueError, KeyError) as error:
        if type(error).__name__ in ("HfHubHTTPError", "LocalEntryNotFoundError"):
            raise WeightsNotFoundError(_unreachable(timm, name, pretrained)) from error
        reason = str(error).strip().splitlines()
        raise ModelFileError(
            f"timm cannot build {name!r}: {reason[0] if reason else type(error).__name__}"
        ) from error


@contextmanager
def _cache_only_when_unreachable(needs_hub: bool) -> Iterator[None]:
    """Spare the hub's client half a minute of retries where there is no network."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    if needs_hub and not getproxies() and not _reachable(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(endpoint: str) -> bool:
    parts = urlparse(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=3).close()
    except OSError:
        return False
    return True


def _unreachable(timm: ModuleType, name: str, pretrained: bool) -> str:
    """What to place where: the hub's files as its client caches them."""
    if name.startswith(_HUB):
        repository = name[len(_HUB) :]
    else:
        config = timm.get_pretrained_cfg(name) if pretrained else None
        repository = getattr(config, "hf_hub_id", None) or f"timm/{name}"
    cache = os.environ.get("HF_HUB_CACHE") or os.path.join(
        os.environ.get("HF_HOME", os.path.expanduser("~/.cache/huggingface")), "hub"
    )
    return (
        f"weights of {name!r} are not cached and could not be downloaded: place the files "
        f"'config.json' and 'model.safetensors' of the hub's {repository!r} in the cache folder "
        f"{cache!r} (`hf download {repository}` does it), or give the weights file's path."
    )


def _classifier_names(module: nn.Module) -> tuple[str, ...]:
    config = getattr(module, "pretrained_cfg", {})
    classifier = config.get("classifier") or "head"
    names = [classifier] if isinstance(classifier, str) else list(classifier)
    return tuple(f"{name}." for name in names)


def _preprocessing(module: Any) -> Preprocessing:
    """What timm states with the network's published weights."""
    config = module.pretrained_cfg
    mean, std = config.get("mean", IMAGENET.mean), config.get("std", IMAGENET.std)
    size = config.get("input_size", (3, 224, 224))[-1] if config.get("fixed_input_size") else None
    return Preprocessing(tuple(mean), tuple(std), size)

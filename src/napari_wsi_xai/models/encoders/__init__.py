"""Encoders (f_e): one builder a kind, chosen by :class:`~napari_wsi_xai.models.EncoderSpec`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from napari_wsi_xai.errors import BadArgumentError, MissingExtraError
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.spec import EncoderSpec

__all__ = ["EncoderEntry", "build_encoder", "list_encoders"]

_ROOM = "napari_wsi_xai.models.encoders"
_BUILDERS: dict[str, tuple[str, str]] = {
    "torchvision": (f"{_ROOM}.torchvision_nets", "build_torchvision"),
    "timm": (f"{_ROOM}.timm_nets", "build_timm"),
    "torchscript": (f"{_ROOM}.programs", "build_torchscript"),
    "torch-export": (f"{_ROOM}.programs", "build_exported"),
    "small": (f"{_ROOM}.small_nets", "build_small"),
    "bagnet": (f"{_ROOM}.bagnet_nets", "build_bagnet"),
}
_PROGRAM_SUFFIXES = {
    ".pt2": "torch-export",
    ".pt": "torchscript",
    ".ts": "torchscript",
    ".torchscript": "torchscript",
}
_TIMM_PREFIXES = ("timm:", "timm/")


@dataclass(frozen=True)
class EncoderEntry:
    """One line of the list of encoders: what to ask for, and whether its package is there."""

    kind: str
    name: str
    installed: bool = True


def build_encoder(spec_or_name: EncoderSpec | str, weights: str | None = None) -> Encoder:
    """Build an encoder.

    Parameters
    ----------
    spec_or_name
        A spec, or a name: a torchvision network (``"resnet50"``), ``"small"``, a BagNet
        (``"bagnet9"``, ``"bagnet17"``, ``"bagnet33"``), a timm network
        (``"timm:vit_small_patch16_224"``, ``"hf-hub:owner/name"``, or any name that torchvision
        does not have), or the path of a TorchScript (``.pt``) or ``torch.export`` (``.pt2``) file.
    weights
        With a name only: ``"DEFAULT"``, the name of a published set, a path, or ``None`` for
        seeded random weights.

    Raises
    ------
    BadArgumentError
        No such network.
    WeightsNotFoundError
        The weights are neither there nor to be had; the message says what to place where.
    ModelFileError
        The weights are damaged, of another network, or hold code.
    MissingExtraError
        The network's package is not installed.
    """
    if isinstance(spec_or_name, str):
        spec = _spec_of(spec_or_name, weights)
    elif weights is None:
        spec = spec_or_name
    else:
        spec = replace(spec_or_name, weights=weights)
    module, function = _BUILDERS[spec.kind]
    build: Callable[[EncoderSpec], Encoder] = getattr(import_module(module), function)
    return build(_with_absolute_path(spec))


def list_encoders() -> list[EncoderEntry]:
    """Encoders that can be asked for by name: the small CNN, BagNets, torchvision's, timm's."""
    from napari_wsi_xai.models.encoders.bagnet import RECEPTIVE_PX
    from napari_wsi_xai.models.encoders.torchvision_nets import torchvision_names

    entries = [EncoderEntry("small", "small")]
    entries += [EncoderEntry("bagnet", f"bagnet{px}") for px in RECEPTIVE_PX]
    entries += [EncoderEntry("torchvision", name) for name in torchvision_names()]
    try:
        from napari_wsi_xai.models.encoders.timm_nets import timm_names

        entries += [EncoderEntry("timm", name) for name in timm_names()]
    except MissingExtraError:
        entries.append(EncoderEntry("timm", "(any timm or hf-hub: name)", installed=False))
    return entries


def _spec_of(name: str, weights: str | None) -> EncoderSpec:
    from napari_wsi_xai.models.encoders.torchvision_nets import torchvision_names

    kind = _PROGRAM_SUFFIXES.get(Path(name).suffix.lower())
    if kind is not None:
        if weights is not None:
            raise BadArgumentError(
                f"{name!r} is a program with weights of its own: give no others."
            )
        return EncoderSpec(kind, Path(name).stem, weights=name)
    if name == "small" or name.startswith("small-"):
        return EncoderSpec("small", name, weights)
    if name.startswith("bagnet"):
        return EncoderSpec("bagnet", name, weights)
    for prefix in _TIMM_PREFIXES:
        if name.startswith(prefix):
            return EncoderSpec("timm", name[len(prefix) :], weights)
    if name.startswith("hf-hub:") or name not in torchvision_names():
        return EncoderSpec("timm", name, weights)
    return EncoderSpec("torchvision", name, weights)


def _with_absolute_path(spec: EncoderSpec) -> EncoderSpec:
    """A worker process may run in another folder, so a path is made absolute."""
    if spec.weights is None:
        return spec
    path = Path(spec.weights).expanduser()
    return replace(spec, weights=str(path.resolve())) if path.exists() else spec

"""Encoders of kind ``"bagnet"``: from published weights, from a file, or seeded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.encoders.bagnet import BagNet, bagnet_name, bagnet_numbers
from napari_wsi_xai.models.encoders.download import fetch
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.encoders.loading import (
    bundled_preprocessing,
    load_weights,
    read_weights,
)
from napari_wsi_xai.models.spec import IMAGENET, EncoderSpec, Preprocessing
from napari_wsi_xai.models.tensor_files import read_state_dict

__all__ = ["CLASSIFIER", "build_bagnet"]

CLASSIFIER = ("fc.",)
"""Beginnings of names that a published state dict holds beyond what gives the descriptor."""

_STEM_MOMENTUM = 0.1
"""An encoder that is trained further sees hundreds of batches, and slides are no photographs: with
the published 0.001 it would be judged by statistics of pictures that it no longer sees."""

_ADDRESS = (
    "https://bitbucket.org/wielandbrendel/bag-of-feature-pretrained-models/raw/"
    "249e8fa82c0913623a807d9d35eeab9da7dcc2a8/"
)
_PUBLISHED = {
    "bagnet9": "bagnet8-34f4ccd2.pth.tar",
    "bagnet17": "bagnet16-105524de.pth.tar",
    "bagnet33": "bagnet32-2ddd53ed.pth.tar",
}


def build_bagnet(spec: EncoderSpec) -> Encoder:
    """Build an encoder of kind ``"bagnet"``.

    Its weights are ``"DEFAULT"`` (the authors', trained on ImageNet), a state dict
    (``.pth.tar``, ``.safetensors``), a model bundle, or None for seeded random ones. The
    descriptor is the mean over positions of the last feature map.

    Raises
    ------
    BadArgumentError
        The name is of no BagNet, or asks for published weights of a width that has none.
    WeightsNotFoundError, ModelFileError
        The weights cannot be had or do not fit.
    """
    receptive_px, width = bagnet_numbers(spec.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        module = BagNet(receptive_px, width, stem_momentum=_STEM_MOMENTUM)
    stated = None
    if spec.weights is None:
        name = f"{spec.name} (untrained, seed {spec.seed})"
    else:
        tensors, origin, stated = _weights(spec, bagnet_name(receptive_px, width))
        load_weights(module, tensors, origin, CLASSIFIER)
        name = f"{spec.name} ({origin})"
    preprocessing = spec.preprocessing or stated or IMAGENET
    return Encoder(spec, module, preprocessing, name, trained=spec.weights is not None)


def _weights(spec: EncoderSpec, name: str) -> tuple[dict[str, Tensor], str, Preprocessing | None]:
    """Tensors, the name of their origin, and the preprocessing they state."""
    if spec.weights == "DEFAULT":
        if name not in _PUBLISHED:
            raise BadArgumentError(
                f"no weights of {name} are published: there are those of {', '.join(_PUBLISHED)}."
            )
        file = _PUBLISHED[name]
        return read_state_dict(fetch(_ADDRESS + file, f"ImageNet weights of {name}")), file, None
    path = Path(str(spec.weights))
    stated = bundled_preprocessing(path)
    return read_weights(path), path.name, Preprocessing.from_dict(stated) if stated else None

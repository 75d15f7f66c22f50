"""Encoders of kind ``"small"``: the package's own network, from a file or seeded."""

from __future__ import annotations

from pathlib import Path

import torch

from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.encoders.loading import (
    bundled_preprocessing,
    load_weights,
    read_weights,
)
from napari_wsi_xai.models.encoders.small import SmallCNN, small_name, small_widths
from napari_wsi_xai.models.spec import EncoderSpec, Preprocessing

__all__ = ["SMALL_PREPROCESSING", "build_small", "small_encoder"]

SMALL_PREPROCESSING = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Pixels to -1..1: the small network is trained with no other statistics."""


def build_small(spec: EncoderSpec) -> Encoder:
    """Build an encoder of kind ``"small"``.

    Raises
    ------
    BadArgumentError
        The name does not spell widths.
    WeightsNotFoundError, ModelFileError
        The weights cannot be had or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        module = SmallCNN(small_widths(spec.name))
    stated = None
    if spec.weights is None:
        name = f"{spec.name} (untrained, seed {spec.seed})"
    else:
        path = Path(spec.weights)
        load_weights(module, read_weights(path), path.name)
        stated = bundled_preprocessing(path)
        name = f"{spec.name} ({path.name})"
    preprocessing = spec.preprocessing or (
        Preprocessing.from_dict(stated) if stated else SMALL_PREPROCESSING
    )
    return Encoder(spec, module, preprocessing, name, trained=spec.weights is not None)


def small_encoder(
    module: SmallCNN, preprocessing: Preprocessing = SMALL_PREPROCESSING, trained: bool = True
) -> Encoder:
    """An encoder around a small network in memory, such as one just trained.

    It pickles with its weights until it is saved in a bundle and loaded from there.
    """
    name = small_name(module.widths)
    spec = EncoderSpec("small", name, preprocessing=preprocessing)
    return Encoder(spec, module, preprocessing, name, trained=trained, rebuildable=False)

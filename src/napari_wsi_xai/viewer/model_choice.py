"""Which model somebody chose, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_wsi_xai.errors import BadArgumentError

if TYPE_CHECKING:
    from napari_wsi_xai.models import Model

__all__ = ["ModelChoice", "load_choice"]


@dataclass(frozen=True)
class ModelChoice:
    """Which model: the shipped one, a bundle, an encoder and a head, or an author's checkpoint.

    Attributes
    ----------
    kind
        ``"demo"``, ``"bundle"``, ``"parts"`` or ``"checkpoint"``.
    path
        The bundle (file or folder), or the checkpoint.
    encoder, encoder_weights
        Name of the network; ``"DEFAULT"``, a file, or None for seeded random weights.
    head, head_weights
        Name of the MIL architecture; a state-dict file, or None for seeded random weights. An
        empty name leaves it to the checkpoint.
    classes
        Class names of the head.
    tile_px, mpps
        Edge of a tile in pixels, at this many micrometres per pixel: one number, or several from
        coarse to fine for heads that look at several magnifications.
    options
        (name, value) of what else the head takes.
    """

    kind: str = "demo"
    path: Path | None = None
    encoder: str = "resnet50"
    encoder_weights: str | None = "DEFAULT"
    head: str = "abmil"
    head_weights: Path | None = None
    classes: tuple[str, ...] = ("normal", "tumor")
    tile_px: int = 224
    mpps: tuple[float, ...] = (0.5,)
    options: tuple[tuple[str, str | int], ...] = ()


def load_choice(choice: ModelChoice) -> Model:
    """The model that was chosen.

    Raises
    ------
    BadArgumentError
        No bundle was chosen, or its parts do not fit.
    ModelError
        It cannot be loaded.
    """
    from napari_wsi_xai.models import load_model

    if choice.kind == "demo":
        from napari_wsi_xai.demo import demo_model_path

        return load_model(demo_model_path())
    if choice.kind == "bundle":
        if choice.path is None:
            raise BadArgumentError("no model was chosen: choose a bundle file or folder.")
        return load_model(choice.path)
    return _model_of_checkpoint(choice) if choice.kind == "checkpoint" else _model_of_parts(choice)


def _model_of_checkpoint(choice: ModelChoice) -> Model:
    from napari_wsi_xai.models import bundle_checkpoint

    if choice.path is None:
        raise BadArgumentError("no model was chosen: choose a checkpoint file.")
    return bundle_checkpoint(
        choice.path,
        choice.encoder,
        choice.classes,
        tile_px=choice.tile_px,
        mpp=choice.mpps,
        architecture=choice.head or None,
        encoder_weights=choice.encoder_weights,
        **dict(choice.options),
    )


def _model_of_parts(choice: ModelChoice) -> Model:
    from napari_wsi_xai.models import build_encoder, build_model
    from napari_wsi_xai.models.encoders.loading import load_weights
    from napari_wsi_xai.models.tensor_files import read_state_dict

    encoder = build_encoder(choice.encoder, weights=choice.encoder_weights)
    options: dict[str, Any] = dict(choice.options)
    model = build_model(
        encoder, choice.head, choice.classes, tile_px=choice.tile_px, mpp=choice.mpps, **options
    )
    if choice.head_weights is None:
        return model
    path = choice.head_weights
    load_weights(model.mil, read_state_dict(path), path.name)
    # Made again, because the content hash is taken when a model is made.
    return replace(model, name=f"{choice.encoder}-{path.stem}", metadata={"trained": True})

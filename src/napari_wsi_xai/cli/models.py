"""``models list | inspect | create``; ``models import`` is in ``checkpoints``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_wsi_xai.cli import app
from napari_wsi_xai.cli.console import JsonOption, emit_json, say

if TYPE_CHECKING:
    from napari_wsi_xai.models import Model

__all__ = [
    "ArchitectureOption",
    "ClassesOption",
    "EncoderOption",
    "EncoderWeightsOption",
    "HeadOption",
    "SeedOption",
    "TileMppOption",
    "TilePxOption",
    "model_facts",
    "models",
    "numbers_of",
    "untrained_model",
]

EncoderOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A network, see `models list`, or a TorchScript/.pt2 file."),
]
EncoderWeightsOption = Annotated[
    str | None,
    typer.Option(metavar="FILE|DEFAULT", help="Its weights; random ones where this is left out."),
]
HeadOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="MIL head, see `models list` [default: abmil].")
]
ClassesOption = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="Class names [default: normal,tumor].")
]
TilePxOption = Annotated[
    int | None, typer.Option(metavar="PX", help="Edge of a tile in pixels [default: 224].")
]
TileMppOption = Annotated[
    str | None,
    typer.Option(
        metavar="UM[,UM...]",
        help="Micrometres per pixel of the tiles [default: 0.5]; of each magnification, coarse "
        "to fine, for a head that looks at several.",
    ),
]
ArchitectureOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The MIL head in a checkpoint, where its tensors fit several."
    ),
]
SeedOption = Annotated[
    int | None, typer.Option(help="Seed of the weights that are random [default: 0].")
]

models = typer.Typer(no_args_is_help=True, help="Encoders, MIL heads and model bundles.")
app.add_typer(models, name="models")


@models.command("list")
def list_models(
    kind: Annotated[
        str | None,
        typer.Option(help="Only encoders of this kind: torchvision, timm, bagnet or small."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the encoders and MIL heads that can be asked for by name."""
    from napari_wsi_xai.models import MIL_ARCHITECTURES, list_encoders

    encoders = [entry for entry in list_encoders() if kind in (None, entry.kind)]
    if as_json:
        emit_json({"encoders": [vars(entry) for entry in encoders], "heads": [*MIL_ARCHITECTURES]})
        return
    for entry in encoders:
        missing = "" if entry.installed else '  (pip install "napari-wsi-xai[foundation]")'
        print(f"encoder  {entry.kind:<12} {entry.name}{missing}")
    for name, head in MIL_ARCHITECTURES.items():
        print(f"head     {name:<12} score: {head.score_kind}")


@models.command()
def inspect(
    file: Annotated[
        Path,
        typer.Argument(help="A model bundle, an author's checkpoint or an encoder's weights."),
    ],
    architecture: ArchitectureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a model file holds."""
    from napari_wsi_xai.cli.checkpoints import checkpoint_facts
    from napari_wsi_xai.models import load_model
    from napari_wsi_xai.models.checkpoints.reading import is_bundle

    if is_bundle(file) or file.is_dir() or not file.exists():
        facts = model_facts(load_model(file))
    else:
        facts = checkpoint_facts(file, architecture, plain=not as_json)
    if as_json:
        emit_json(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        words = ", ".join(map(str, value)) if isinstance(value, list) else value
        print(f"{name:<{width}}  {words}")


@models.command()
def create(
    encoder: Annotated[
        str, typer.Option(metavar="NAME", help="A network, see `models list`, or a program file.")
    ],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder or .safetensors to write.")],
    encoder_weights: EncoderWeightsOption = None,
    head: HeadOption = None,
    classes: ClassesOption = None,
    tile_px: TilePxOption = None,
    tile_mpp: TileMppOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put an encoder and an untrained MIL head into a bundle, to try things out or to train."""
    from napari_wsi_xai.models import save_model

    model = untrained_model(encoder, encoder_weights, head, classes, tile_px, tile_mpp, seed)
    written = save_model(model, out)
    say(f"the head of {written} is untrained: its scores mean nothing yet.")
    if as_json:
        emit_json({"out": str(written), **model_facts(model)})


def untrained_model(
    encoder: str,
    encoder_weights: str | None = None,
    head: str | None = None,
    classes: str | None = None,
    tile_px: int | None = None,
    tile_mpp: str | None = None,
    seed: int | None = None,
) -> Model:
    """Build a model of an encoder and a MIL head with seeded random weights."""
    from napari_wsi_xai.errors import BadArgumentError
    from napari_wsi_xai.models import build_encoder, build_model

    names = tuple(name.strip() for name in (classes or "normal,tumor").split(","))
    if len(names) < 2 or not all(names):
        raise BadArgumentError(f"--classes {classes!r} needs two or more names, A,B,...")
    return build_model(
        build_encoder(encoder, encoder_weights),
        head or "abmil",
        names,
        tile_px=224 if tile_px is None else tile_px,
        mpp=0.5 if tile_mpp is None else numbers_of(tile_mpp),
        seed=seed or 0,
    )


def numbers_of(tile_mpp: str) -> list[float]:
    """Read micrometres per pixel of one magnification or several."""
    from napari_wsi_xai.errors import BadArgumentError

    try:
        return [float(part) for part in tile_mpp.split(",")]
    except ValueError as error:
        raise BadArgumentError(
            f"--tile-mpp {tile_mpp!r} needs numbers, UM or UM,UM,... from coarse to fine."
        ) from error


def model_facts(model: Model) -> dict[str, Any]:
    """What a bundle holds, for `models inspect`."""
    return {
        "name": model.name,
        "encoder": model.encoder.name,
        "encoder_hash": model.encoder.content_hash,
        "descriptor_length": model.encoder.dim,
        "head": model.mil.architecture,
        "head_arguments": model.mil.arguments,
        "tile_score": model.mil.score_kind,
        "classes": list(model.classes),
        "tile_px": model.tile_px,
        "tile_mpp": model.mpp,
        **({"tile_mpps": list(model.mpps)} if len(model.mpps) > 1 else {}),
        "content_hash": model.content_hash,
        "metadata": dict(model.metadata),
    }

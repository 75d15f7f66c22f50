"""``models import``: an author's checkpoint becomes a bundle; what `models inspect` says of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_wsi_xai.cli.console import JsonOption, emit_json, say
from napari_wsi_xai.cli.models import (
    ArchitectureOption,
    EncoderOption,
    EncoderWeightsOption,
    model_facts,
    models,
    numbers_of,
)

if TYPE_CHECKING:
    from napari_wsi_xai.models import CheckpointFacts

__all__ = ["checkpoint_facts"]

_WORDS = {"true": True, "false": False, "none": None}
_OWN_OPTIONS = ("encoder", "encoder_weights", "classes", "tile_px", "mpp", "architecture", "path")


@models.command("import")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="An author's checkpoint: .pt, .pth, .safetensors.")],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder or .safetensors to write.")],
    encoder: EncoderOption = None,
    encoder_weights: EncoderWeightsOption = None,
    classes: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Class names, in the head's order.")
    ] = None,
    tile_px: Annotated[
        int | None, typer.Option(metavar="PX", help="Edge of a tile in pixels, as in training.")
    ] = None,
    tile_mpp: Annotated[
        str | None,
        typer.Option(
            metavar="UM[,UM...]",
            help="Micrometres per pixel of the tiles; of each magnification, coarse to fine.",
        ),
    ] = None,
    architecture: ArchitectureOption = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What the file does not tell, see `inspect`."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put an author's checkpoint and the encoder it was trained with into a bundle."""
    from napari_wsi_xai.models import bundle_checkpoint, inspect_checkpoint, save_model

    facts = inspect_checkpoint(file, architecture)
    wanted = {"encoder": encoder, "classes": classes, "tile-px": tile_px, "tile-mpp": tile_mpp}
    _require_all(file, facts, [name for name, value in wanted.items() if value is None])
    assert encoder is not None
    assert classes is not None
    assert tile_px is not None
    assert tile_mpp is not None
    model = bundle_checkpoint(
        file,
        encoder,
        [name.strip() for name in classes.split(",")],
        tile_px,
        numbers_of(tile_mpp),
        architecture,
        encoder_weights,
        **_options(option or []),
    )
    written = save_model(model, out)
    if not model.encoder.trained:
        say(f"the encoder of {written} is untrained: name its weights with --encoder-weights.")
    if as_json:
        emit_json({"out": str(written), **model_facts(model)})


def _require_all(file: Path, facts: CheckpointFacts, missing: list[str]) -> None:
    """Raise unless a head was recognised and all that no file tells was given."""
    from napari_wsi_xai.errors import BadArgumentError, CheckpointError
    from napari_wsi_xai.models.encoder_lengths import encoders_of_length

    if facts.kind == "encoder":
        usage = facts.usage.replace("FILE", str(file))
        raise CheckpointError(f"{file.name!r} is no MIL head but {facts.source}: {usage}.")
    if facts.architecture is None:
        missing = ["architecture", *missing]
    if not missing:
        return
    assert facts.in_features is not None
    like = ", ".join(encoders_of_length(facts.in_features))
    words = {
        "architecture": f"--architecture {' or '.join(facts.candidates)}",
        "encoder": f"--encoder NAME, one of descriptor length {facts.in_features}"
        + (f" (such as {like})" if like else ""),
        "classes": f"--classes with {facts.num_classes} names",
        "tile-px": "--tile-px PX",
        "tile-mpp": "--tile-mpp UM"
        + (f" with {facts.num_magnifications} values" if facts.num_magnifications > 1 else ""),
    }
    raise BadArgumentError(
        f"{file.name!r} is {' or '.join(facts.candidates)} ({facts.source}); also needed, because "
        f"no tensor tells: {'; '.join(words[name] for name in missing)}."
    )


def _options(given: list[str]) -> dict[str, Any]:
    from napari_wsi_xai.errors import BadArgumentError

    options: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise BadArgumentError(f"--option {pair!r} must be NAME=VALUE.")
        if name in _OWN_OPTIONS:
            raise BadArgumentError(f"--option {pair!r}: that has an option of its own.")
        options[name] = _value(value.strip())
    return options


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def checkpoint_facts(file: Path, architecture: str | None, plain: bool) -> dict[str, Any]:
    """What a checkpoint or an encoder's weights are; in words where ``plain``."""
    from napari_wsi_xai.models import inspect_checkpoint

    facts = inspect_checkpoint(file, architecture)
    if not plain:
        return facts.to_dict()
    lines: dict[str, Any] = {
        "kind": "MIL head" if facts.kind == "head" else "encoder",
        "architecture": facts.architecture or " or ".join(facts.candidates),
        "source": facts.source,
        "descriptor_length": facts.in_features,
        "classes": facts.num_classes,
        "told": _pairs(facts.arguments),
        "not_told": _pairs(facts.assumed),
        "parameters": f"{facts.parameters:,}",
        "magnifications": facts.num_magnifications if facts.num_magnifications > 1 else None,
        "stored": _pairs(facts.stored),
        "next": facts.usage.replace("FILE", str(file)),
    }
    return {name: value for name, value in lines.items() if value not in (None, "")}


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())

"""What a checkpoint is, without running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from napari_wsi_xai.errors import CheckpointError
from napari_wsi_xai.models.checkpoints.importing import find_heads
from napari_wsi_xai.models.checkpoints.reading import Contents, read_checkpoint
from napari_wsi_xai.models.checkpoints.recognition import Match
from napari_wsi_xai.models.encoders.recognition import (
    descriptor_length,
    origin_of,
    recognise_encoder,
)

__all__ = ["CheckpointFacts", "inspect_checkpoint"]


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint is; every value JSON-able.

    Attributes
    ----------
    kind
        ``"head"``, or ``"encoder"`` for the weights of a torchvision network.
    architecture
        Key of ``MIL_ARCHITECTURES``, or the network's name; ``None`` where several fit and
        somebody has to choose.
    candidates
        Everything that fits.
    source
        The published code it is of.
    in_features
        Length of the descriptors that the head takes, or that the encoder gives.
    num_classes
        Number of classes; ``None`` for an encoder.
    arguments
        What the names and shapes of the tensors tell.
    assumed
        What they cannot tell, with the values that stand where nothing is said; options of
        :func:`import_checkpoint`.
    parameters
        How many numbers the head's or network's tensors hold.
    num_magnifications, magnification_use
        See :class:`~napari_wsi_xai.models.MILModel`.
    stored
        Numbers and short texts saved beside the tensors: epoch, loss.
    usage
        How to go on, for people.
    """

    kind: Literal["head", "encoder"]
    architecture: str | None
    candidates: tuple[str, ...]
    source: str
    in_features: int | None
    num_classes: int | None
    arguments: dict[str, Any]
    assumed: dict[str, Any]
    parameters: int
    num_magnifications: int = 1
    magnification_use: str = "single"
    stored: dict[str, Any] = field(default_factory=dict)
    usage: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return asdict(self) | {"candidates": list(self.candidates)}


def inspect_checkpoint(
    source: str | Path | Mapping[str, Any], architecture: str | None = None
) -> CheckpointFacts:
    """Say what a checkpoint is: which head of which code, or which encoder.

    Parameters
    ----------
    source
        As for :func:`import_checkpoint`.
    architecture
        The only head that is looked for.

    Raises
    ------
    WeightsNotFoundError, ModelFileError, CheckpointError
        As for :func:`import_checkpoint`; tensors that fit several heads are no error here.
    """
    contents = read_checkpoint(source)
    try:
        found = find_heads(contents, architecture, {})
    except CheckpointError:
        encoders = recognise_encoder(contents.tensors)
        if not encoders or architecture is not None:
            raise
        return _of_encoder(encoders, contents)
    return _of_head(found, contents)


def _of_head(found: list[Match], contents: Contents) -> CheckpointFacts:
    match, names = found[0], tuple(match.layout.architecture for match in found)
    head = match.head
    alone = len(found) == 1
    many = f" and --tile-mpp with {head.num_magnifications} values" * (head.num_magnifications > 1)
    choice = "" if alone else f" --architecture {' or '.join(names)}"
    return CheckpointFacts(
        kind="head",
        architecture=names[0] if alone else None,
        candidates=names,
        source=match.layout.source,
        in_features=head.in_features,
        num_classes=head.num_classes,
        arguments=dict(match.inferred),
        assumed={k: v for k, v in head.arguments.items() if k not in match.inferred},
        parameters=sum(tensor.numel() for tensor in match.tensors.values()),
        num_magnifications=head.num_magnifications,
        magnification_use=head.magnification_use,
        stored=contents.facts,
        usage=f"models import FILE{choice} with an encoder of length {_length(head)}{many}",
    )


def _length(head: Any) -> str:
    if head.magnification_use != "concat" or head.num_magnifications == 1:
        return str(head.in_features)
    return f"{head.in_features // head.num_magnifications} (x {head.num_magnifications})"


def _of_encoder(names: list[str], contents: Contents) -> CheckpointFacts:
    return CheckpointFacts(
        kind="encoder",
        architecture=names[0] if len(names) == 1 else None,
        candidates=tuple(names),
        source=f"encoder weights: {origin_of(names[0])}",
        in_features=descriptor_length(names[0]),
        num_classes=None,
        arguments={},
        assumed={},
        parameters=sum(tensor.numel() for tensor in contents.tensors.values()),
        stored=contents.facts,
        usage=f"use with --encoder {names[0]} --encoder-weights FILE",
    )

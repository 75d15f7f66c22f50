"""Checkpoint files of published codes, as the window speaks of them. Torch only when examining."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from napari_wsi_xai.errors import BadArgumentError, WsiXaiError
from napari_wsi_xai.models.encoder_lengths import encoders_of_length, known_length
from napari_wsi_xai.viewer.drain import Failed
from napari_wsi_xai.viewer.head_options import ARCHITECTURE_NAMES

if TYPE_CHECKING:
    from napari_wsi_xai.models.checkpoints import CheckpointFacts

__all__ = [
    "CheckpointSummary",
    "default_classes",
    "default_mpps",
    "encoder_hint",
    "examine_checkpoint",
    "read_mpps",
]

COARSER = 4
"""Step between the magnifications that are suggested."""


@dataclass(frozen=True)
class CheckpointSummary:
    """What a file tells of the head in it; picklable, and free of torch.

    Attributes
    ----------
    words
        What was recognised, for people: "CLAM-SB, gated · descriptors of 1,024 numbers · 2
        classes".
    architectures
        The architecture; several where the file fits them all and somebody has to choose.
    in_features
        Length of the descriptors that the head takes.
    num_classes
        Number of classes.
    magnifications
        How many magnifications the head looks at, or may look at where the file does not tell.
    source
        The published code that names its tensors so.
    """

    words: str
    architectures: tuple[str, ...]
    in_features: int
    num_classes: int
    magnifications: int = 1
    source: str = ""


def encoder_hint(encoder: str, length: int) -> str:
    """Which encoder a head needs, and whether the named one is known not to fit."""
    needed = f"It needs an encoder that gives {length:,} numbers a tile"
    given = known_length(encoder)
    if given == length:
        return f"{needed}, as {encoder.strip()} does; it must be the one it was trained with."
    fitting = " or ".join(encoders_of_length(length)[:2])
    like = f", as {fitting} do{'' if ' or ' in fitting else 'es'}" if fitting else ""
    if given is None:
        return f"{needed}{like}; it must be the one it was trained with."
    return f"{needed}{like}; {encoder.strip()} gives {given:,}."


def default_classes(number: int, current: tuple[str, ...]) -> tuple[str, ...]:
    """Class names to begin with: those that are there, if their number is right."""
    if len(current) == number:
        return current
    return tuple(f"class {index}" for index in range(1, number + 1))


def default_mpps(number: int, current: tuple[float, ...]) -> tuple[float, ...]:
    """Micrometres per pixel of so many magnifications to begin with, coarse to fine."""
    if len(current) == number:
        return current
    finest = min(current, default=0.5)
    return tuple(finest * COARSER**step for step in reversed(range(number)))


def read_mpps(text: str) -> tuple[float, ...]:
    """``"8, 2, 0.5"`` as numbers, coarse to fine.

    Raises
    ------
    BadArgumentError
        Something is no number above 0, or they do not get finer.
    """
    try:
        values = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise BadArgumentError(
            f'"{text}" are no micrometres per pixel: write 0.5, or 8, 2, 0.5 for several '
            "magnifications."
        ) from error
    falling = all(a > b for a, b in pairwise(values))
    if not values or not all(0 < value < 1000 for value in values) or not falling:
        raise BadArgumentError(
            f'"{text}" are no micrometres per pixel above 0, coarse to fine: write 0.5 with a '
            "point, or 8, 2, 0.5 for several magnifications."
        )
    return values


def examine_checkpoint(path: Path) -> CheckpointSummary | Failed:
    """What is in a checkpoint file, or one sentence that says why it cannot be used."""
    from napari_wsi_xai.models.checkpoints import inspect_checkpoint

    try:
        return _summary(inspect_checkpoint(path), path)
    except WsiXaiError as error:
        return Failed(str(error).strip().splitlines()[0])
    except Exception as error:  # a fault of ours or of a library: still one sentence
        logging.getLogger(__name__).exception("examining %s failed", path)
        return Failed(f"unexpected {type(error).__name__} in {path.name}: {error}")


def _summary(facts: CheckpointFacts, path: Path) -> CheckpointSummary | Failed:
    if facts.in_features is None or facts.num_classes is None:
        return Failed(
            f"{path.name} holds the weights of an encoder ({facts.candidates[0]}), not of a head: "
            'choose "Encoder + head" and give it there as the encoder\'s weights.'
        )
    names = [_short(ARCHITECTURE_NAMES.get(name, name)) for name in facts.candidates]
    parts = [" or ".join(names), f"descriptors of {facts.in_features:,} numbers"]
    parts.append(f"{facts.num_classes} classes")
    if facts.num_magnifications > 1:
        parts.append(f"{facts.num_magnifications} magnifications")
    return CheckpointSummary(
        " · ".join(parts),
        facts.candidates,
        facts.in_features,
        facts.num_classes,
        facts.num_magnifications,
        facts.source,
    )


def _short(words: str) -> str:
    """A head's name without what is told of every file: the number of its magnifications."""
    return words.removesuffix(" (several magnifications)")

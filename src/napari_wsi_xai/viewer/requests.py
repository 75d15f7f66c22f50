"""What the viewer asks of the scoring process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_wsi_xai.geometry import Region
from napari_wsi_xai.viewer.scoring import ScoreInputs

__all__ = ["Cancel", "Examine", "Focus", "Request", "Score"]


@dataclass(frozen=True)
class Score:
    """Score a slide; ``number`` tells runs apart."""

    number: int
    inputs: ScoreInputs


@dataclass(frozen=True)
class Cancel:
    """Stop run ``number`` after the forward pass under way."""

    number: int


@dataclass(frozen=True)
class Focus:
    """Do this rectangle of run ``number`` first."""

    number: int
    region_level0: Region | None


@dataclass(frozen=True)
class Examine:
    """Say what is in a checkpoint file; answered by a ``CheckpointSummary`` or ``Failed``."""

    path: Path


Request = Score | Cancel | Focus | Examine

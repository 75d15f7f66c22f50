"""What a paper's training on a published data set needs, settled before it is begun."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.encoders import build_encoder
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.mil import MIL_ARCHITECTURES
from napari_wsi_xai.training.cohort import Cohort
from napari_wsi_xai.training.heads import build_head
from napari_wsi_xai.training.papers import Paper, paper_of
from napari_wsi_xai.training.public_sets import PUBLIC_SETS, read_public_set
from napari_wsi_xai.training.recipes import Recipe, head_arguments, read_recipe, recipe_for
from napari_wsi_xai.training.splits import Split, given, hold_out, k_fold

__all__ = ["Reproduction", "plan_reproduction"]


@dataclass(frozen=True, eq=False)
class Reproduction:
    """All that a paper's training on a data set needs, checked before anything is computed.

    Attributes
    ----------
    paper
        Whose settings these are where none were given.
    cohort
        The data set; its cases' features are slides, or images with marked nuclei.
    splits
        One, or one a fold.
    recipe, encoder
        How to train, and what describes a tile; end to end, what to begin with.
    tile_px, mpps
        Edge of a tile in pixels, at so many micrometres per pixel, coarse to fine.
    members
        Heads whose mean decides, or None for one head.
    """

    paper: Paper
    cohort: Cohort
    splits: tuple[Split, ...]
    recipe: Recipe
    encoder: Encoder
    tile_px: int
    mpps: tuple[float, ...]
    members: int | None = None

    @property
    def trainings(self) -> int:
        """Number of heads that are trained."""
        return len(self.splits) * (self.members or 1)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without weights."""
        return {
            "data_set": self.paper.data_set,
            "paper": self.paper.citation,
            "slides": self.cohort.counts(),
            "cohort_hash": self.cohort.content_hash,
            "splits": [split.name for split in self.splits],
            "members": self.members,
            "encoder": self.encoder.name,
            "encoder_hash": self.encoder.content_hash,
            "end_to_end": self.recipe.end_to_end,
            "tile_px": self.tile_px,
            "tile_mpps": list(self.mpps),
            "recipe": self.recipe.to_dict(),
        }


def plan_reproduction(
    data_set: str,
    data: str | os.PathLike[str],
    *,
    head: str | None = None,
    recipe: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    encoder: Encoder | str | None = None,
    weights: str | None = None,
    end_to_end: bool | None = None,
    tile_px: int | None = None,
    mpps: Sequence[float] | None = None,
    folds: int | None = None,
    members: int | None = None,
    **options: Any,
) -> Reproduction:
    """Read a data set and settle how it is trained on; what is not given is as in the paper.

    Parameters
    ----------
    data_set
        A key of ``PAPERS``.
    data
        The folder it lies in, as it is distributed.
    head, recipe, settings
        Another head, a recipe's YAML and settings that go before it. With a head that is not in
        the paper, or a recipe, settings of the paper's own are left aside.
    encoder, weights
        What describes a tile: an encoder, or a name and the origin of its weights (``"none"`` for
        random ones). The paper's weights are taken where none are told of its encoder.
    end_to_end
        Train the encoder too, or not.
    tile_px, mpps
        Edge of a tile in pixels, at so many micrometres per pixel, coarse to fine.
    folds
        Folds of a cross-validation; 1 for one split, the official one where there is one.
    members
        Heads whose mean decides.
    **options
        What the data set's reader takes, see :func:`read_public_set`.

    Raises
    ------
    BadArgumentError
        No such data set, or a setting does not fit.
    CohortError
        Files are missing, or there are too few slides; the message names them.
    ModelError
        The encoder cannot be had.
    """
    paper = paper_of(data_set)
    how = _recipe(paper, head, recipe, dict(settings or {}), end_to_end)
    scales = _mpps(paper, how, mpps)
    if folds is not None and folds < 1:
        raise BadArgumentError(f"folds={folds} must be at least 1, which is one split.")
    cohort = _read(paper, data, options)
    splits = _splits(cohort, folds or paper.folds, how.seed)
    if members is None and how.architecture in paper.heads and not how.end_to_end:
        members = paper.members
    built = encoder if isinstance(encoder, Encoder) else _encoder(paper, how, encoder, weights)
    px = paper.tile_px if tile_px is None else tile_px
    planned = Reproduction(paper, cohort, splits, how, built, px, scales, members)
    _check(planned)
    return planned


def _check(planned: Reproduction) -> None:
    """Raise for what would else be told after hours of encoding."""
    recipe, px, members = planned.recipe, planned.tile_px, planned.members
    if px < 1 or (planned.paper.nuclei and px % 2 == 0):
        odd = ", and odd, so that a nucleus is in the middle" * planned.paper.nuclei
        raise BadArgumentError(f"tile_px={px} must be at least 1{odd}.")
    head = build_head(recipe, planned.encoder.dim, len(planned.cohort.classes), len(planned.mpps))
    if members is None:
        return
    if members < 1 or recipe.end_to_end or head.magnification_use != "single":
        raise BadArgumentError(
            f"members={members} of {recipe.architecture}: heads whose mean decides are at least "
            "one, look at one magnification and share an encoder that is not trained along."
        )


def _recipe(
    paper: Paper,
    head: str | None,
    file: str | os.PathLike[str] | None,
    settings: dict[str, Any],
    end_to_end: bool | None,
) -> Recipe:
    """The recipe of a file or of a head, with the paper's settings where it is the paper's."""
    asked = {} if end_to_end is None else {"end_to_end": end_to_end}
    if file is not None:
        return read_recipe(Path(file), head, **{**asked, **settings})
    name = head or paper.head
    whole = paper.end_to_end if end_to_end is None else end_to_end
    begun = {"end_to_end": True, **paper.start_settings} if whole else {}
    own = paper.settings if name in paper.heads else {}
    return recipe_for(name, **{**own, **begun, **settings})


def _read(paper: Paper, data: str | os.PathLike[str], options: Mapping[str, Any]) -> Cohort:
    """The cohort, told apart as in the paper unless told otherwise."""
    known = list(inspect.signature(PUBLIC_SETS[paper.data_set]).parameters)[1:]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise BadArgumentError(
            f"{paper.data_set} is read without {unknown[0]}: it takes {', '.join(known)}."
        )
    return read_public_set(paper.data_set, data, **{**paper.options, **options})


def _mpps(paper: Paper, recipe: Recipe, asked: Sequence[float] | None) -> tuple[float, ...]:
    """Magnifications that were asked for, else the paper's that the head can look at."""
    several = "num_magnifications" in head_arguments(recipe.architecture) and not recipe.end_to_end
    wanted = paper.mpps if several else paper.mpps[-1:]
    if asked is not None:
        wanted = tuple(float(mpp) for mpp in asked)
    told = ", ".join(f"{mpp:g}" for mpp in wanted)
    if paper.nuclei and wanted != paper.mpps:
        raise BadArgumentError(
            f"the images of {paper.data_set} are taken as they are, at {paper.mpps[0]:g} um/px, "
            f"and not at {told}."
        )
    if len(wanted) < 2 and MIL_ARCHITECTURES[recipe.architecture].magnification_use == "zoom":
        raise BadArgumentError(
            f"the {recipe.architecture} head looks at several magnifications, and not at {told} "
            "um/px alone: give more, coarse to fine (--tile-mpp UM,UM,...)."
        )
    return wanted


def _splits(cohort: Cohort, folds: int, seed: int) -> tuple[Split, ...]:
    if folds > 1:
        return k_fold(cohort, folds, seed=seed)
    stated = any(case.split for case in cohort.cases)
    return (given(cohort, seed=seed) if stated else hold_out(cohort, seed=seed),)


def _encoder(paper: Paper, recipe: Recipe, name: str | None, weights: str | None) -> Encoder:
    """The encoder asked for, else the paper's or the network that it began with."""
    begun = paper.start if recipe.end_to_end else None
    name = name or begun or paper.encoder
    if weights is None and name == paper.encoder:
        weights = paper.weights
    return build_encoder(name, None if weights == "none" else weights)

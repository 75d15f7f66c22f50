"""Train on a published data set as the paper did whose head is reproduced."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.training.cohort import Cohort, write_cohort
from napari_wsi_xai.training.reproduction import Reproduction

if TYPE_CHECKING:
    from napari_wsi_xai.training.crossval import CrossValidation
    from napari_wsi_xai.training.encoding import EncodingProgress
    from napari_wsi_xai.training.ensemble import EnsembleResult
    from napari_wsi_xai.training.fit import TrainResult
    from napari_wsi_xai.training.records import TrainProgress

__all__ = ["reproduce"]

RECORD, TABLE, FEATURES = "reproduction.json", "cohort.csv", "features"
OUTLINES = (".geojson", ".json")


def reproduce(
    planned: Reproduction,
    out: str | os.PathLike[str],
    *,
    slide_mpp: float | None = None,
    min_tissue: float | None = None,
    tell: Callable[[EncodingProgress], None] | None = None,
    callbacks: Callable[[Cohort, Path], Iterable[Any]] | None = None,
    on_progress: Callable[[int, TrainProgress], None] | None = None,
    workers: int = 0,
    device: str = "auto",
) -> TrainResult | EnsembleResult | CrossValidation:
    """Encode what is not encoded yet, and train; called again after a kill it goes on.

    Parameters
    ----------
    planned
        As :func:`plan_reproduction` gives it.
    out
        Folder of the results: ``features``, the trainings as ``train``, ``train_ensemble`` or
        ``cross_validate`` write them, ``cohort.csv`` and ``reproduction.json``.
    slide_mpp
        Micrometres per pixel of slides that do not say.
    min_tissue
        Smallest share of tissue in a tile (the coarsest) that is encoded.
    tell
        Is told how far the encoding has come.
    callbacks
        Makes the Lightning callbacks of a training (the cohort as it is trained on, its folder).
    on_progress
        Is told the training's number, from 0, and how far it has come; see
        :attr:`Reproduction.trainings`.
    workers, device
        As :func:`~napari_wsi_xai.training.fit.train` takes them.

    Raises
    ------
    BadArgumentError
        ``out`` is a file, or ``slide_mpp`` or ``min_tissue`` is not taken; as ``train`` raises.
    WsiXaiError
        Slides cannot be read, or as ``train`` raises.
    """
    from napari_wsi_xai.training.records import write_atomically

    folder = Path(out)
    _check(planned, folder, mpp=slide_mpp, min_tissue=min_tissue)
    cohort = planned.cohort.with_mpp(slide_mpp)
    options: dict[str, float] = {} if slide_mpp is None else {"slide_mpp": slide_mpp}
    if not planned.recipe.end_to_end:
        least = planned.paper.min_tissue if min_tissue is None else min_tissue
        options |= {} if least is None else {"min_tissue": least}
        cohort = _encoded(planned, folder / FEATURES, tell, device, options)
    common = {
        "encoder": planned.encoder,
        "tile_px": planned.tile_px,
        "mpps": planned.mpps,
        "workers": workers,
        "device": device,
    }
    watched = _with_readable_outlines(cohort)
    made = None if callbacks is None else lambda _, place: callbacks(watched, place)
    result = _train(replace(planned, cohort=cohort), folder, made, on_progress, common)
    write_cohort(planned.cohort, folder / TABLE)
    with write_atomically(folder / RECORD) as temporary:
        temporary.write_text(
            json.dumps(planned.to_dict() | {"read_with": options}, indent=1), encoding="utf-8"
        )
    return result


def _check(planned: Reproduction, folder: Path, **given: float | None) -> None:
    """Raise where the folder is none, or what slides are read with is not taken."""
    if folder.is_file():
        raise BadArgumentError(f"{folder} is a file: name a folder for the results.")
    asked = [f"{name}={value:g}" for name, value in given.items() if value is not None]
    if not asked:
        return
    if planned.paper.nuclei:
        raise BadArgumentError(
            f"{asked[0]}: {planned.paper.data_set} has images and no slides, all of one scale: "
            "leave it out."
        )
    if planned.recipe.end_to_end and given["min_tissue"] is not None:
        raise BadArgumentError(
            f"{asked[-1]} is not taken end to end: leave it out, or train on descriptors "
            "(--frozen-encoder)."
        )


def _with_readable_outlines(cohort: Cohort) -> Cohort:
    """The cohort without outlines in files that only other programs read (.xml)."""
    cases = (
        case
        if case.annotation is None or case.annotation.suffix.lower() in OUTLINES
        else replace(case, annotation=None)
        for case in cohort.cases
    )
    return replace(cohort, cases=tuple(cases))


def _encoded(
    planned: Reproduction,
    folder: Path,
    tell: Callable[[EncodingProgress], None] | None,
    device: str,
    options: dict[str, Any],
) -> Cohort:
    from napari_wsi_xai.training.encoding import encode_cohort
    from napari_wsi_xai.training.nuclei import encode_nuclei

    cohort, encoder, tile_px = planned.cohort, planned.encoder, planned.tile_px
    if planned.paper.nuclei:
        return encode_nuclei(cohort, encoder, folder, tile_px=tile_px, device=device)
    mpp: float | Sequence[float] = planned.mpps if len(planned.mpps) > 1 else planned.mpps[0]
    return encode_cohort(
        cohort, encoder, folder, tile_px=tile_px, mpp=mpp, tell=tell, device=device, **options
    )


def _train(
    planned: Reproduction,
    folder: Path,
    made: Callable[[int, Path], Iterable[Any]] | None,
    on_progress: Callable[[int, TrainProgress], None] | None,
    common: dict[str, Any],
) -> TrainResult | EnsembleResult | CrossValidation:
    """One training, one a fold, and as many of each as there are members."""
    from napari_wsi_xai.training.crossval import cross_validate
    from napari_wsi_xai.training.ensemble import train_ensemble
    from napari_wsi_xai.training.fit import train

    cohort, splits, recipe = planned.cohort, planned.splits, planned.recipe
    told = {"on_progress": on_progress, **common}
    if len(splits) > 1:
        members = planned.members
        return cross_validate(
            cohort, splits, recipe, folder, members=members, callbacks=made, **told
        )
    (split,) = splits
    if planned.members is not None:
        return train_ensemble(
            cohort, split, recipe, folder, planned.members, callbacks=made, **told
        )
    if on_progress is not None:
        told["on_progress"] = lambda progress: on_progress(0, progress)
    return train(cohort, split, recipe, folder, callbacks=made(0, folder) if made else (), **told)

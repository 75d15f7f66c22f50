"""Slides of a cohort to run stores that can be trained on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_wsi_xai.errors import CohortError, WsiXaiError
from napari_wsi_xai.runs import Progress, ZoomRun, score
from napari_wsi_xai.training.cohort import Case, Cohort
from napari_wsi_xai.training.wording import listed

if TYPE_CHECKING:
    from napari_wsi_xai.models import Encoder, EncoderSpec, Model

__all__ = ["EncodingProgress", "encode_cohort"]


@dataclass(frozen=True)
class EncodingProgress:
    """State of a cohort that is being encoded.

    Attributes
    ----------
    slide
        Name of the slide at hand.
    number, slides
        Which one it is, from 1, of how many.
    step
        State of that slide.
    eta_s
        Estimated seconds left for all; None while unknown.
    """

    slide: str
    number: int
    slides: int
    step: Progress
    eta_s: float | None


def encode_cohort(
    cohort: Cohort,
    encoder: Encoder | EncoderSpec | str,
    out: str | os.PathLike[str],
    *,
    tile_px: int = 224,
    mpp: float | Sequence[float] = 0.5,
    tell: Callable[[EncodingProgress], None] | None = None,
    **options: Any,
) -> Cohort:
    """Encode every slide that has no features yet, at all its magnifications.

    What is encoded already is gone on with or left as it is, so the same call after a kill goes
    on; stores hold features and no maps, because no head has been trained.

    Parameters
    ----------
    cohort
        Cases whose features are slides; others stay as they are.
    encoder
        f_e.
    out
        Folder of the run stores, ``<slide>.wsixai.zarr``.
    tile_px, mpp
        Edge of a tile in pixels, at this many micrometres per pixel; one number for each
        magnification, coarse to fine, for heads that look at several.
    tell
        Called after every step.
    **options
        What else :func:`score` takes of reading and encoding; ``slide_mpp`` are the micrometres
        per pixel of slides that do not state them.

    Returns
    -------
    Cohort
        The same cases, with run stores for features.

    Raises
    ------
    CohortError
        Slides cannot be encoded; the others are, and the message names these with their reasons.
    """
    folder = Path(out)
    model = _encoding_model(encoder, cohort.classes, tile_px, mpp)
    waiting = [
        case
        for case in cohort.with_mpp(options.pop("slide_mpp", None)).cases
        if case.kind == "slide"
    ]
    stores, failed = {}, {}
    clock = _Clock()
    for number, case in enumerate(waiting, 1):
        stores[case.slide] = folder / f"{case.slide}.wsixai.zarr"
        clock.begin()
        try:
            for step in _encode(case, model, stores[case.slide], options):
                clock.worked = True
                if tell is not None:
                    left = clock.left(len(waiting) - number, step)
                    tell(EncodingProgress(case.slide, number, len(waiting), step, left))
        except WsiXaiError as error:
            failed[case.slide] = str(error)
        clock.end()
    if failed:
        reasons = [f"{slide} ({reason.rstrip('.')})" for slide, reason in failed.items()]
        raise CohortError(
            f"{len(failed)} of {len(waiting)} slides cannot be encoded: {listed(reasons)}; mend "
            "them or leave them out, the same call goes on."
        )
    cases = tuple(
        replace(case, features=stores[case.slide]) if case.slide in stores else case
        for case in cohort.cases
    )
    return replace(cohort, cases=cases)


def _encoding_model(
    encoder: Encoder | EncoderSpec | str,
    classes: Sequence[str],
    tile_px: int,
    mpp: float | Sequence[float],
) -> Model:
    """The encoder with a head that is never asked: runs are of whole models."""
    from napari_wsi_xai.models import build_model

    several = isinstance(mpp, Sequence) and len(mpp) > 1
    return build_model(encoder, "zoommil" if several else "mean", classes, tile_px=tile_px, mpp=mpp)


def _encode(case: Case, model: Model, out: Path, options: dict[str, Any]) -> Iterator[Progress]:
    told = case.missing_mpp()
    run = score(case.features, model, out, mpp=told, exhaustive=True, **options)
    if not isinstance(run, ZoomRun):
        yield from run.encode()
        return
    first = run.levels[0]
    for level in run.levels:
        if level is not first and not level.complete:
            first.prepare()
            level.prepare_like(first)
        yield from level.encode()


class _Clock:
    """Time of the slides that were worked on; those encoded before take none and do not count."""

    def __init__(self) -> None:
        self.spent_s, self.slides = 0.0, 0

    def begin(self) -> None:
        self.begun, self.worked = time.monotonic(), False

    def end(self) -> None:
        if self.worked:
            self.spent_s += time.monotonic() - self.begun
            self.slides += 1

    def left(self, later: int, step: Progress) -> float | None:
        """Seconds that the slide at hand and ``later`` ones take, at the rate of those before."""
        if not self.slides:
            return None if later else step.eta_s
        each = self.spent_s / self.slides
        return each * later + max(each - (time.monotonic() - self.begun), 0.0)

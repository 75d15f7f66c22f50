"""The demo: make a slide, score it with the shipped model, measure the result, draw it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_wsi_xai.annotations import Annotation, write_geojson
from napari_wsi_xai.demo.model import demo_model_path
from napari_wsi_xai.demo.overview import draw_overview
from napari_wsi_xai.demo.slide import DemoSlide, existing_demo_slide, make_demo_slide
from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.evaluate import Localisation, localisation_auc, tile_truth
from napari_wsi_xai.slides import Slide, open_slide

if TYPE_CHECKING:
    from napari_wsi_xai.runs import Run

__all__ = ["DemoResult", "run_demo"]

SLIDE_NAME = "demo.tif"
STORE_NAME = "demo.wsixai.zarr"
TRUTH_NAME = "truth.geojson"
OVERVIEW_NAME = "overview.png"
SMALLEST_PX = 2000
TRUTH_COLOUR = (200, 0, 0)

DemoProgress = Callable[[str, int, int], None]
"""Called with what is being done, and how much of how much."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo made and found.

    Attributes
    ----------
    slide, store, truth, overview
        Files: the slide, the result store, the ground truth, the picture.
    model
        The shipped model's bundle.
    seed, size
        What the slide was made from; its side in pixels.
    probabilities
        Class to slide-level probability.
    predicted
        The likeliest class; the slide's label is ``"tumor"``.
    tiles
        Number of tissue tiles.
    localisation
        AUC of the tile scores against tiles half covered by a nest, with its interval and the
        same for random maps.
    timings_s
        Seconds spent on ``slide``, ``score``, ``measure``, ``overview`` and in ``total``.
    reused
        What was there from an earlier call: ``"slide"``, ``"scores"``.
    """

    slide: Path
    store: Path
    truth: Path
    overview: Path
    model: Path
    seed: int
    size: int
    probabilities: dict[str, float]
    predicted: str
    tiles: int
    localisation: Localisation
    timings_s: dict[str, float]
    reused: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return {
            key: str(value) if isinstance(value, Path) else value
            for key, value in asdict(self).items()
        }


def run_demo(
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    size: int = 8000,
    precision: str = "auto",
    device: str = "auto",
    engine: str = "auto",
    progress: DemoProgress | None = None,
) -> DemoResult:
    """Make a demo slide in a folder, score it, and compare the scores with the ground truth.

    Called again with the same folder, it takes up what is finished there.

    Parameters
    ----------
    out
        Folder for slide, store, ground truth and picture; made if need be.
    seed
        Which slide. Seeds from 10000 to 10029 made the training slides.
    size
        Side of the slide in pixels (0.5 micrometres each), at least 2000.
    precision, device, engine
        As for scoring any slide.
    progress
        Told what is being done: ``("slide" | "score" | "measure" | "overview", done, total)``.

    Raises
    ------
    BadArgumentError
        The slide is too small, or the folder holds another demo slide.
    StoreError
        The store cannot be written, or was made with another model.
    """
    tell = progress or (lambda stage, done, total: None)
    folder = _folder(Path(out), size)
    clock = _Clock()
    reused: list[str] = []
    demo = _slide(folder / SLIDE_NAME, seed, size, tell, reused)
    truth = _write_truth(demo, folder / TRUTH_NAME)
    clock.lap("slide")
    with open_slide(demo.path) as slide:
        run = _score(slide, folder / STORE_NAME, tell, reused, (precision, device, engine))
        clock.lap("score")
        tell("measure", 0, 1)
        scores = next(run.maps[name] for name in run.maps if name.startswith("tile-scores/"))
        found = localisation_auc(scores, tile_truth(demo.truth, run.grid), run.tissue)
        clock.lap("measure")
        tell("overview", 0, 1)
        overview = draw_overview(
            slide,
            scores,
            run.grid,
            demo.truth,
            folder / OVERVIEW_NAME,
            headings=("Slide", f"Tile scores (AUC {found.auc:.3f}), {_verdict(run)}"),
            legend=(f"tile score ({run.score_kind})", "low", "high"),
        )
        clock.lap("overview")
    tell("overview", 1, 1)
    return DemoResult(
        slide=demo.path,
        store=folder / STORE_NAME,
        truth=truth,
        overview=overview,
        model=demo_model_path(),
        seed=seed,
        size=size,
        probabilities=run.probabilities,
        predicted=str(run.predicted),
        tiles=run.total,
        localisation=found,
        timings_s=clock.finish(),
        reused=tuple(reused),
    )


def _folder(folder: Path, size: int) -> Path:
    """Make the folder of a demo whose slide is large enough."""
    if size < SMALLEST_PX:
        raise BadArgumentError(
            f"a demo slide of {size} px holds too few tiles; give at least {SMALLEST_PX} px."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _slide(path: Path, seed: int, size: int, tell: DemoProgress, reused: list[str]) -> DemoSlide:
    """The demo slide, made where it is not there yet."""
    demo = existing_demo_slide(path, seed, (size, size))
    if demo is not None:
        reused.append("slide")
        return demo
    return make_demo_slide(path, seed, (size, size), progress=lambda n, of: tell("slide", n, of))


def _verdict(run: Run) -> str:
    return f"slide: {run.predicted}, p = {max(run.probabilities.values()):.2f}"


class _Clock:
    """Seconds spent on each part."""

    def __init__(self) -> None:
        self.begin = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.last = round(now - self.last, 3), now

    def finish(self) -> dict[str, float]:
        return {**self.laps, "total": round(time.perf_counter() - self.begin, 3)}


def _write_truth(demo: DemoSlide, path: Path) -> Path:
    return write_geojson(
        path,
        [
            Annotation(nest, f"nest {number}", "Tumor", TRUTH_COLOUR)
            for number, nest in enumerate(demo.truth, start=1)
        ],
    )


def _score(
    slide: Slide, store: Path, tell: DemoProgress, reused: list[str], how: tuple[str, str, str]
) -> Run:
    """Score the slide, or load the scores of an earlier call."""
    from napari_wsi_xai.runs import Run, score

    precision, device, engine = how
    run = score(slide, demo_model_path(), store, precision=precision, device=device, engine=engine)
    assert isinstance(run, Run)  # the shipped model looks at one magnification
    if run.complete and run.maps and run.probabilities:
        reused.append("scores")
        return run
    for step in run:
        tell("score", step.tiles_done, step.tiles_total)
    return run

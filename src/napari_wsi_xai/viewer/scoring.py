"""From what the user chose to a run: the widget's work without the widget, and without Qt."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_wsi_xai.errors import BadArgumentError, GridError, StoreMismatchError
from napari_wsi_xai.geometry import Mpp, Region
from napari_wsi_xai.tiles import TissueMask, TissueOptions
from napari_wsi_xai.viewer.drawings import LabelsDrawing
from napari_wsi_xai.viewer.model_choice import ModelChoice, load_choice

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from napari_wsi_xai.models import Model
    from napari_wsi_xai.runs import Run
    from napari_wsi_xai.slides import Slide
    from napari_wsi_xai.viewer.states import AnyRun

__all__ = ["ScoreInputs", "TissueChoice", "plan_run", "result_folder"]

MOST_STORES = 100


@dataclass(frozen=True)
class TissueChoice:
    """Which tiles make up the bag: an automatic mask, none, or one drawn by the user.

    Attributes
    ----------
    options
        Method and smallest share of tissue in a tile.
    labels
        A Labels layer in place of the automatic mask.
    polygons
        Outlines in level-0 pixels, x and y as shapely has them (from a Shapes layer).
    """

    options: TissueOptions = field(default_factory=TissueOptions)
    labels: LabelsDrawing | None = None
    polygons: tuple[BaseGeometry, ...] = ()


@dataclass(frozen=True, eq=False)
class ScoreInputs:
    """Everything *Score* needs.

    Attributes
    ----------
    source, name
        The slide's path or URL, and its name.
    mpp
        Micrometres per pixel stated by the user, where the slide does not say.
    model, tissue
        See there.
    region
        Score only the blocks that touch this rectangle or these outlines; None for all.
    precision, device
        As ``score`` takes them.
    folder, cache
        Where the result store goes; without ``folder``: beside the slide, or in ``cache`` where
        that cannot be written.
    view
        What the user looks at; scored first.
    """

    source: str
    name: str
    mpp: float | Mpp | None = None
    model: ModelChoice = field(default_factory=ModelChoice)
    tissue: TissueChoice = TissueChoice()
    region: Region | tuple[BaseGeometry, ...] | None = None
    precision: str = "auto"
    device: str = "auto"
    folder: Path | None = None
    cache: Path = Path()
    view: Region | None = None

    def in_memory(self) -> ScoreInputs:
        """The same, with a drawn Labels array read into memory, ready for another process."""
        if self.tissue.labels is None:
            return self
        return replace(self, tissue=replace(self.tissue, labels=self.tissue.labels.in_memory()))


def plan_run(inputs: ScoreInputs) -> Generator[str, None, AnyRun]:
    """Open slide and model, find tissue, and plan the run; says what it does meanwhile.

    Yields
    ------
    str
        What comes next, in words.

    Returns
    -------
    Run or ZoomRun
        Ready to be iterated; complete already where a matching store was found.

    Raises
    ------
    WsiXaiError
        Anything of the error tree; its message is for the user.
    """
    from napari_wsi_xai.slides import open_slide

    yield "Opening the slide"
    slide = open_slide(inputs.source, mpp=inputs.mpp)
    slide.require_mpp()
    yield "Loading the model"
    model = load_choice(inputs.model)
    yield "Finding tissue"
    run = _open_or_begin(inputs, slide, model, _tissue_mask(inputs.tissue, slide))
    if inputs.region is not None and not isinstance(inputs.region, Region):
        run = _only_blocks_under(_one_magnification(run), inputs.region)
    run.focus(inputs.view)
    return run


def _tissue_mask(choice: TissueChoice, slide: Slide) -> TissueMask | None:
    """The mask, made once: several stores may be tried with it. None where every tile counts."""
    from napari_wsi_xai.runs.score import mask_of_polygons
    from napari_wsi_xai.tiles import tissue_mask

    if choice.labels is not None:
        return choice.labels.mask()
    if choice.polygons:
        return mask_of_polygons(slide, choice.polygons)
    return None if choice.options.method == "none" else tissue_mask(slide, choice.options)


def _open_or_begin(
    inputs: ScoreInputs, slide: Slide, model: Model, mask: TissueMask | None
) -> AnyRun:
    """The run in the first store that is free or holds the same work."""
    from napari_wsi_xai.runs import score

    options = inputs.tissue.options
    for path in _stores(result_folder(inputs), inputs.name):
        try:
            return score(
                slide,
                model,
                path,
                tissue=options if mask is None else mask,
                min_tissue=options.min_fraction,
                region=inputs.region if isinstance(inputs.region, Region) else None,
                precision=inputs.precision,
                device=inputs.device,
            )
        except StoreMismatchError:
            continue
    raise StoreMismatchError(
        f"{result_folder(inputs)} holds {MOST_STORES} other results of {inputs.name}: choose "
        "another output folder or delete some."
    )


def _stores(folder: Path, name: str) -> Iterator[Path]:
    """Names for the store: plain, then numbered, for other models and settings."""
    yield folder / f"{name}.wsixai.zarr"
    for number in range(2, MOST_STORES + 1):
        yield folder / f"{name}-{number}.wsixai.zarr"


def result_folder(inputs: ScoreInputs) -> Path:
    """Where the result store goes: as chosen, else beside the slide, else the cache folder."""
    if inputs.folder is not None:
        inputs.folder.mkdir(parents=True, exist_ok=True)
        return inputs.folder
    if "://" not in inputs.source:
        beside = Path(inputs.source).resolve().parent
        if os.access(beside, os.W_OK):
            return beside
    inputs.cache.mkdir(parents=True, exist_ok=True)
    return inputs.cache


def _one_magnification(run: AnyRun) -> Run:
    from napari_wsi_xai.runs import ZoomRun

    if isinstance(run, ZoomRun):
        raise BadArgumentError(
            f"a region cannot be chosen with {len(run.mpps)} magnifications, because which tiles "
            "are opened depends on the whole slide: choose the whole slide, or draw the tissue."
        )
    return run


def _only_blocks_under(run: Run, outlines: tuple[BaseGeometry, ...]) -> Run:
    """The same run, of the blocks that touch the outlines (level-0 pixels, x and y)."""
    import shapely

    from napari_wsi_xai.runs import Run as RunOfBlocks

    assert run.plan is not None
    wanted = shapely.union_all(np.asarray(outlines, dtype=object))
    blocks = []
    for block in run.plan.blocks:
        rows, cols = run.plan.window(block)
        box = run.grid.region_of((rows.start, rows.stop), (cols.start, cols.stop))
        if wanted.intersects(shapely.box(box.x, box.y, box.x + box.width, box.y + box.height)):
            blocks.append(block)
    if not blocks:
        raise GridError("there is no tissue tile under the selected shapes: choose others.")
    return RunOfBlocks(run.store, run.plan, run.head, run.slide, tuple(blocks))

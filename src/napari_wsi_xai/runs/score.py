"""Begin, or go on with, scoring a slide."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_wsi_xai.annotations import rasterise, read_geojson
from napari_wsi_xai.errors import BadArgumentError, GridError
from napari_wsi_xai.geometry import Mpp, Region
from napari_wsi_xai.runs.plan import Block, RunPlan
from napari_wsi_xai.runs.planning import EncodeOptions, RunInputs, require_settled
from napari_wsi_xai.runs.run import Run
from napari_wsi_xai.runs.store import ResultStore
from napari_wsi_xai.runs.zoom import ZoomRun
from napari_wsi_xai.runs.zoom_plan import ZoomPlan
from napari_wsi_xai.runs.zoom_store import MagnificationStore
from napari_wsi_xai.slides import Slide, open_slide
from napari_wsi_xai.tiles import (
    TileGrid,
    Tissue,
    TissueMask,
    TissueOptions,
    nested_grids,
    tile_grid,
    tissue_tiles,
)

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from napari_wsi_xai.models import Model

__all__ = ["score"]

POLYGON_RASTER_UM = 4.0
"""Micrometres per pixel at which outlines that replace the tissue mask are rasterised."""

TissueSource = TissueOptions | TissueMask | Sequence["BaseGeometry"] | str | os.PathLike[str]


def score(
    slide: Slide | str | os.PathLike[str],
    model: Model | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    mpp: float | Mpp | None = None,
    tissue: TissueSource | None = None,
    min_tissue: float | None = None,
    region: Region | None = None,
    precision: str = "auto",
    device: str = "auto",
    engine: str = "auto",
    block_tiles: int = 8,
    batch_size: int | None = None,
    feature_dtype: str = "float32",
    exhaustive: bool = False,
) -> Run | ZoomRun:
    """Plan the scoring of a slide; iterate over the result (or ``compute()`` it) to do the work.

    Parameters
    ----------
    slide
        A slide, or what :func:`open_slide` opens.
    model
        A model bundle, or its path.
    out
        Folder of the result store (``<name>.wsixai.zarr``); in memory by default. One that
        matches is gone on with; a finished one is just loaded.
    mpp
        Micrometres per pixel of level 0, where the slide does not say.
    tissue
        How tissue is found, or what replaces that: a mask, polygons in level-0 pixels (x, y as
        shapely has them), or the path of a GeoJSON file.
    min_tissue
        Smallest share of a tile that must be tissue; replaces the one in ``tissue``.
    region
        Do only the blocks that touch this level-0 rectangle. The bag is the same: scoring the
        rest later goes on in the same store.
    precision, device, engine
        As :meth:`Encoder.prepare` takes them.
    block_tiles
        Tiles per side of a block (a chunk of the result), 1 to 64.
    batch_size
        Most tiles per call of the encoder; 64 on a GPU and 32 elsewhere by default.
    feature_dtype
        ``"float32"`` or ``"float16"`` in the store.
    exhaustive
        Read every tile of every magnification, also where the model opens only some; the decision
        is the same up to rounding. A model over one magnification reads every tile anyway.

    Returns
    -------
    Run or ZoomRun
        A :class:`ZoomRun` where the model looks at several magnifications.

    Raises
    ------
    MissingMppError, GridError, NoTissueError, SlideError, ModelError, StoreError
        See :mod:`napari_wsi_xai.errors`.
    """
    from napari_wsi_xai.models import Model, load_model

    batch_size = _batch_size(device) if batch_size is None else batch_size
    options = EncodeOptions(precision, device, engine, block_tiles, batch_size, feature_dtype)
    opened = slide if isinstance(slide, Slide) and mpp is None else _open(slide, mpp)
    bundle = model if isinstance(model, Model) else load_model(os.fspath(model))
    inputs = RunInputs(opened, bundle, options)
    path = None if out is None else Path(out)
    if len(bundle.mpps) > 1:
        if region is not None:
            raise BadArgumentError(
                f"a region cannot be chosen with {len(bundle.mpps)} magnifications, because which "
                "tiles are opened depends on the whole slide: leave it out, or outline tissue."
            )
        grids = nested_grids(opened, bundle.tile_px, bundle.mpps)
        found = _find_tissue(opened, grids[0], tissue, min_tissue)
        return _begin_zoom(inputs, grids, found, path, exhaustive)
    grid = tile_grid(opened, tile_px=bundle.tile_px, mpp=bundle.mpp)
    return _begin(inputs, grid, _find_tissue(opened, grid, tissue, min_tissue), path, region)


def _begin(
    inputs: RunInputs, grid: TileGrid, found: Tissue, path: Path | None, region: Region | None
) -> Run:
    plan = inputs.plan(grid, found.selected)
    store = ResultStore.create_or_resume(
        path,
        inputs.identity(grid, found.selected),
        inputs.provenance(),
        found.selected,
        inputs.model.encoder.dim,
    )
    require_settled(store, inputs.options)
    return Run(store, plan, inputs.model.mil, inputs.slide, _blocks_in(plan, region))


def _begin_zoom(
    inputs: RunInputs,
    grids: tuple[TileGrid, ...],
    found: Tissue,
    path: Path | None,
    exhaustive: bool,
) -> ZoomRun:
    head = inputs.model.mil
    whole = exhaustive or head.magnification_use != "zoom"
    plan = ZoomPlan(inputs, grids, found.selected, whole)
    about = {**inputs.provenance(), "tissue_left_out": round(found.left_out, 6)}
    store = MagnificationStore.create_or_resume(path, plan.identity, about)
    return ZoomRun(store, plan, head, inputs.slide)


def _open(slide: Slide | str | os.PathLike[str], mpp: float | Mpp | None) -> Slide:
    return open_slide(slide.source if isinstance(slide, Slide) else slide, mpp=mpp)


def _batch_size(device: str) -> int:
    """A GPU wants a block's tiles at once; on a processor small batches let a cancel act soon."""
    import torch

    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return 64 if on_gpu else 32


def _find_tissue(
    slide: Slide, grid: TileGrid, source: TissueSource | None, min_tissue: float | None
) -> Tissue:
    options = source if isinstance(source, TissueOptions) else TissueOptions()
    if min_tissue is not None:
        options = replace(options, min_fraction=min_tissue)
    if source is None or isinstance(source, TissueOptions):
        return tissue_tiles(slide, grid, options)
    if isinstance(source, TissueMask):
        return tissue_tiles(slide, grid, options, source)
    if isinstance(source, (str, os.PathLike)):
        source = [annotation.geometry for annotation in read_geojson(Path(source))]
    return tissue_tiles(slide, grid, options, mask_of_polygons(slide, source))


def mask_of_polygons(slide: Slide, polygons: Sequence[BaseGeometry]) -> TissueMask:
    """Rasterise outlines (level-0 pixels, x and y) over the slide's bounds."""
    pixel = POLYGON_RASTER_UM / max(slide.require_mpp())
    height, width = (max(1, int(np.ceil(extent / pixel))) for extent in slide.bounds.shape)
    origin = slide.bounds.origin
    array = rasterise(polygons, (height, width), pixel, origin)
    return TissueMask(array, (float(origin[0]), float(origin[1])), (pixel, pixel))


def _blocks_in(plan: RunPlan, region: Region | None) -> tuple[Block, ...] | None:
    """Blocks that touch ``region``; None for all."""
    if region is None:
        return None
    last = (region.y + region.height - 1, region.x + region.width - 1)
    low, high = plan.grid.index_at([region.origin, last]) // plan.block_tiles
    inside = tuple(
        block
        for block in plan.blocks
        if low[0] <= block.row <= high[0] and low[1] <= block.col <= high[1]
    )
    if not inside:
        raise GridError("there is no tissue tile in the chosen region: choose another one.")
    return inside

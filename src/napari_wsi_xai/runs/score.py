"""Begin, or go on with, scoring a slide."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_wsi_xai.annotations import rasterise, read_geojson
from napari_wsi_xai.errors import BadArgumentError, GridError, StoreMismatchError
from napari_wsi_xai.geometry import Mpp, Region
from napari_wsi_xai.runs.plan import Block, RunPlan
from napari_wsi_xai.runs.run import Run
from napari_wsi_xai.runs.store import ResultStore
from napari_wsi_xai.slides import Slide, open_slide
from napari_wsi_xai.tiles import (
    TileGrid,
    Tissue,
    TissueMask,
    TissueOptions,
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
) -> Run:
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

    Raises
    ------
    MissingMppError, GridError, NoTissueError, SlideError, ModelError, StoreError
        See :mod:`napari_wsi_xai.errors`.
    """
    from napari_wsi_xai.models import Model, load_model

    batch_size = _batch_size(device) if batch_size is None else batch_size
    _check(block_tiles, batch_size, feature_dtype)
    opened = slide if isinstance(slide, Slide) and mpp is None else _open(slide, mpp)
    bundle = model if isinstance(model, Model) else load_model(os.fspath(model))
    grid = tile_grid(opened, tile_px=bundle.tile_px, mpp=bundle.mpp)
    found = _find_tissue(opened, grid, tissue, min_tissue)
    plan = RunPlan(
        source=opened.source,
        mpp=opened.mpp if opened.mpp_source == "user" else None,
        encoder=bundle.encoder,
        grid=grid,
        selected=found.selected,
        block_tiles=block_tiles,
        precision=precision,
        engine=engine,
        device=device,
        batch_size=batch_size,
    )
    store = ResultStore.create_or_resume(
        None if out is None else Path(out),
        _identity(opened, bundle, plan, found, feature_dtype),
        _provenance(opened, bundle),
        found.selected,
        bundle.encoder.dim,
    )
    _require_settled(store, precision, engine)
    return Run(store, plan, bundle.mil, opened, _blocks_in(plan, region))


def _open(slide: Slide | str | os.PathLike[str], mpp: float | Mpp | None) -> Slide:
    return open_slide(slide.source if isinstance(slide, Slide) else slide, mpp=mpp)


def _batch_size(device: str) -> int:
    """A GPU wants a block's tiles at once; on a processor small batches let a cancel act soon."""
    import torch

    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return 64 if on_gpu else 32


def _check(block_tiles: int, batch_size: int, feature_dtype: str) -> None:
    if not 1 <= block_tiles <= 64:
        raise BadArgumentError(f"block_tiles={block_tiles} is not between 1 and 64.")
    if not 1 <= batch_size <= 4096:
        raise BadArgumentError(f"batch_size={batch_size} is not between 1 and 4096.")
    if feature_dtype not in ("float32", "float16"):
        raise BadArgumentError(f"feature_dtype {feature_dtype!r} is not 'float32' or 'float16'.")


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


def _identity(
    slide: Slide, model: Model, plan: RunPlan, tissue: Tissue, feature_dtype: str
) -> dict[str, Any]:
    """What must agree for results to live in one store."""
    return {
        "slide": slide.fingerprint,
        "grid": plan.grid.to_dict(),
        "tissue": tissue.digest,
        "encoder": model.encoder.content_hash,
        "model": model.content_hash,
        "block_tiles": plan.block_tiles,
        "feature_dtype": feature_dtype,
    }


def _provenance(slide: Slide, model: Model) -> dict[str, Any]:
    """Where results come from; without times, so that equal runs make equal stores."""
    assert slide.mpp is not None
    return {
        "slide": {
            "name": slide.name,
            "source": slide.source,
            "fingerprint": slide.fingerprint,
            "shape": list(slide.shape),
            "mpp": list(slide.mpp),
            "mpp_source": slide.mpp_source,
        },
        "model": {
            "name": model.name,
            "classes": list(model.classes),
            "architecture": model.mil.architecture,
            "score_kind": model.mil.score_kind,
            "encoder": model.encoder.name,
            "seed": model.encoder.spec.seed,
            "trained": bool(model.metadata.get("trained", True)),
            "content_hash": model.content_hash,
        },
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("napari-wsi-xai", "torch", "torchvision", "zarr", "numpy", "openslide-python")
    return {name: version(name) for name in names}


def _require_settled(store: ResultStore, precision: str, engine: str) -> None:
    """A store keeps the precision and engine its first blocks were made with."""
    settled = store.attributes.get("engine") or {}
    for name, wanted in (("precision", precision), ("engine", engine)):
        if settled and wanted not in ("auto", settled[name]):
            raise StoreMismatchError(
                f"{store.path} was begun with {name} {settled[name]}, not {wanted}: choose "
                f"'auto' or {settled[name]!r} to go on with it, or another output."
            )

"""Settle once which precision and engine a store's features are made with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import SlideReadError
from napari_wsi_xai.runs.plan import RunPlan
from napari_wsi_xai.runs.store import ResultStore
from napari_wsi_xai.slides import Slide
from napari_wsi_xai.tiles import read_tiles

if TYPE_CHECKING:
    from napari_wsi_xai.models import Engine

__all__ = ["settle_engine"]

TISSUE_TILES, GLASS_TILES = 8, 4
"""Tiles on which a half-precision engine checks itself."""


def settle_engine(plan: RunPlan, store: ResultStore, slide: Slide) -> tuple[RunPlan, Engine]:
    """Build the engine; returns it, and the plan with precision and engine resolved.

    A store that has blocks already keeps the precision and engine they were made with; else
    ``auto`` is decided on a few of the slide's own tiles and written to the store.
    """
    settled = store.attributes.get("engine")
    if settled:
        plan = replace(plan, precision=settled["precision"], engine=settled["engine"])
    engine = plan.encoder.prepare(
        precision=plan.precision,
        device=plan.device,
        engine=plan.engine,
        sample=_sample(plan, slide) if plan.precision != "float32" else None,
        batch_size=plan.batch_size,
    )
    if not settled:
        store.update_attributes(engine={"precision": engine.precision, "engine": engine.engine})
    return replace(plan, precision=engine.precision, engine=engine.engine), engine


def _sample(plan: RunPlan, slide: Slide) -> NDArray[np.uint8]:
    """Selected tiles and some background, spread evenly; unreadable ones make it shorter.

    Nearly empty tiles lose most to rounding. Background is part of the check so that a precision
    does not pass only because the tiles looked at happen to be full of tissue.
    """
    tissue = _spread(plan.grid.indices(plan.selected), TISSUE_TILES)
    glass = _spread(plan.grid.indices(~plan.selected), GLASS_TILES)
    tiles = [np.empty((0, plan.grid.tile_px, plan.grid.tile_px, 3), dtype=np.uint8)]
    for one in np.concatenate([tissue, glass]):
        try:
            tiles.append(read_tiles(slide, plan.grid, one))
        except SlideReadError:
            continue
    return np.concatenate(tiles)


def _spread(index: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """``count`` rows of ``index``, evenly spaced, or all of them."""
    picked = np.linspace(0, len(index) - 1, min(count, len(index))).astype(int)
    return np.asarray(index[picked])

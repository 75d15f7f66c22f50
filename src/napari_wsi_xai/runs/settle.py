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

SAMPLE_TILES = 16
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
    """A few selected tiles spread evenly over the slide; unreadable ones make it shorter."""
    index = plan.grid.indices(plan.selected)
    spread = index[np.linspace(0, len(index) - 1, min(SAMPLE_TILES, len(index))).astype(int)]
    tiles = [np.empty((0, plan.grid.tile_px, plan.grid.tile_px, 3), dtype=np.uint8)]
    for one in spread:
        try:
            tiles.append(read_tiles(slide, plan.grid, one))
        except SlideReadError:
            continue
    return np.concatenate(tiles)

"""A run over three magnifications, made up: what the viewer knows of it at one moment."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_wsi_xai.runs.trace import LevelTrace
from napari_wsi_xai.tiles import TileGrid
from napari_wsi_xai.viewer.zoom_frames import OpenedTiles, frame_opened
from napari_wsi_xai.viewer.zoom_snapshot import LevelState, ZoomFacts, ZoomSnapshot, nested_on

MPPS = (8.0, 2.0, 0.5)
COARSEST = TileGrid((3, 4), 64, 8.0, 64, (10, 20), (0.25, 0.25), 0, 1.0, 0.5)
GRIDS = nested_on(COARSEST, MPPS)
FACTS = ZoomFacts("/s.svs", "s", GRIDS, ("normal", "tumor"), "m")


def opened_tiles(level: int, index: list[tuple[int, int]]) -> OpenedTiles:
    """Opened tiles, the later the higher both weights."""
    weights = np.linspace(0.1, 0.5, len(index), dtype=np.float32)
    places = np.array(index, dtype=np.int64).reshape(-1, 2)
    return OpenedTiles(GRIDS[level], places, weights, weights[::1] + np.float32(0.1))


def make_state(level: int, done: bool = True, opened: int = 2) -> LevelState:
    """A magnification of which one row of tiles is looked at."""
    attention = np.full(GRIDS[level].shape, np.nan, dtype=np.float32)
    if done:
        attention[0] = np.linspace(0, 0.5 + level, attention.shape[1])
    tiles, read = int(np.prod(attention.shape)), attention.shape[1]
    skipped = tiles - read if level else 0
    trace = LevelTrace(MPPS[level], tiles, read, 0, read, opened, skipped)
    return LevelState(trace, GRIDS[level], read, attention, done)


def make_snapshot(begun: int = 3, complete: bool = True, **values: Any) -> ZoomSnapshot:
    """A run that has begun so many magnifications."""
    states = [make_state(m, complete or m < begun - 1, 2 if m < 2 else 0) for m in range(begun)]
    waiting = [LevelState(LevelTrace(mpp, 12 * 16**m)) for m, mpp in enumerate(MPPS)]
    chosen = [[(0, 1), (2, 3)], [(1, 5), (0, 4)]]
    opened = [opened_tiles(m, chosen[m] if begun > m + 1 else []) for m in range(2)]
    labels, features, parts = frame_opened(opened)
    return ZoomSnapshot(
        levels=(*states, *waiting[begun:]),
        labels=labels,
        features=features,
        parts=parts,
        probabilities={"normal": 0.2, "tumor": 0.8} if complete else {},
        complete=complete,
        **values,
    )

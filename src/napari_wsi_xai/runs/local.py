"""The local executor: reading threads ahead of one inference thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from napari_wsi_xai.geometry import Region
from napari_wsi_xai.runs.plan import (
    Block,
    BlockPixels,
    BlockResult,
    CancelledError,
    RunPlan,
    encode_pixels,
    read_block,
)
from napari_wsi_xai.slides import Slide
from napari_wsi_xai.tiles import prefetch

if TYPE_CHECKING:
    from napari_wsi_xai.models import Engine

__all__ = ["BlockQueue", "run_locally"]

READERS = 2
AHEAD = 2


class BlockQueue:
    """Blocks still to do; the next one is the nearest to where the user looks.

    Iterating takes blocks out until none is left. :meth:`focus` may be called from any thread
    at any time and changes what comes next.
    """

    def __init__(self, plan: RunPlan, todo: list[Block]) -> None:
        self._lock = threading.Lock()
        self._todo = list(todo)
        self._rectangles = {
            block: _rectangle(plan.grid.region_of(*_limits(plan, block))) for block in todo
        }
        self._focus: np.ndarray | None = None

    def focus(self, region_level0: Region | None) -> None:
        """Blocks that touch ``region_level0`` come first, from its centre outwards."""
        with self._lock:
            self._focus = None if region_level0 is None else _rectangle(region_level0)

    def __len__(self) -> int:
        return len(self._todo)

    def __iter__(self) -> Iterator[Block]:
        while True:
            with self._lock:
                if not self._todo:
                    return
                block = self._todo[0] if self._focus is None else min(self._todo, key=self._rank)
                self._todo.remove(block)
            yield block

    def _rank(self, block: Block) -> tuple[float, float]:
        """Distance to the focus rectangle (0 if they touch), then between the centres."""
        assert self._focus is not None
        here, focus = self._rectangles[block], self._focus
        gap = np.maximum(0, np.maximum(here[0] - focus[1], focus[0] - here[1]))
        return float(np.hypot(*gap)), float(np.hypot(*(here.mean(axis=0) - focus.mean(axis=0))))


def run_locally(
    plan: RunPlan, slide: Slide, engine: Engine, queue: BlockQueue, cancel: threading.Event
) -> Iterator[BlockResult]:
    """Encode the blocks of ``queue``; stops between two forward passes once ``cancel`` is set."""

    def read(block: Block) -> BlockPixels:
        return read_block(plan, slide, block)

    for pixels in prefetch(read, queue, threads=READERS, ahead=AHEAD):
        if cancel.is_set():
            return
        try:
            yield encode_pixels(plan, engine, pixels, cancel)
        except CancelledError:
            return


def _limits(plan: RunPlan, block: Block) -> tuple[tuple[int, int], tuple[int, int]]:
    rows, cols = plan.window(block)
    return (rows.start, rows.stop), (cols.start, cols.stop)


def _rectangle(region: Region) -> np.ndarray:
    return np.array([region.origin, np.add(region.origin, region.shape)], dtype=float)

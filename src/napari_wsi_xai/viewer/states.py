"""Facts and state of a run, whichever kind of run it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.viewer.snapshot import RunFacts, Snapshot
from napari_wsi_xai.viewer.zoom_snapshot import ZoomFacts, ZoomSnapshot

if TYPE_CHECKING:
    from napari_wsi_xai.runs import Run, ZoomRun

    AnyRun = Run | ZoomRun

__all__ = [
    "AnyFacts",
    "AnySnapshot",
    "facts_of",
    "first_snapshot",
    "is_finished",
    "milestone",
    "snapshot_of",
]

AnyFacts = RunFacts | ZoomFacts
AnySnapshot = Snapshot | ZoomSnapshot


def facts_of(run: AnyRun) -> AnyFacts:
    """What does not change while a run goes on."""
    from napari_wsi_xai.runs import ZoomRun

    return ZoomFacts.of(run) if isinstance(run, ZoomRun) else RunFacts.of(run)


def snapshot_of(run: AnyRun) -> AnySnapshot:
    """The run as it stands; called in the thread that drives it."""
    from napari_wsi_xai.runs import ZoomRun

    return ZoomSnapshot.of(run) if isinstance(run, ZoomRun) else Snapshot.of(run)


def is_finished(run: AnyRun) -> bool:
    """Whether nothing is left to compute: all tiles are done, and the head has seen them."""
    from napari_wsi_xai.runs import ZoomRun

    maps = run.levels[-1].maps if isinstance(run, ZoomRun) else run.maps
    return run.complete and run.result is not None and bool(maps)


def milestone(run: AnyRun) -> tuple[int, int]:
    """How many magnifications have begun, and of how many the maps are done.

    It changes when something new can be seen.
    """
    from napari_wsi_xai.runs import ZoomRun

    if not isinstance(run, ZoomRun):
        return (0, 0)
    return len(run.levels), sum(level.complete and bool(level.maps) for level in run.levels)


def first_snapshot(run: AnyRun) -> AnySnapshot:
    """The run as it stands; before its first tiles, with maps that hold nothing yet.

    A head's maps are known from what it says of any one descriptor.
    """
    from napari_wsi_xai.runs import ZoomRun

    if isinstance(run, ZoomRun) or run.maps or run.head is None:
        return snapshot_of(run)
    import torch

    from napari_wsi_xai.runs.maps import maps_from_output

    with torch.inference_mode():
        corner = torch.zeros(1, 2, dtype=torch.int64)
        output = run.head(torch.zeros(1, run.head.in_features), corner)
    index = np.zeros((1, 2), dtype=np.int64)
    maps = maps_from_output(output, index, run.tissue.shape, run.classes)
    empty: dict[str, NDArray[np.float32]] = {
        key: np.full_like(values, np.nan) for key, values in maps.items()
    }
    return Snapshot.of(run, maps=empty)

"""What a run over several magnifications shows at one moment, copied out of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.viewer.snapshot import Features, Labels
from napari_wsi_xai.viewer.zoom_frames import OpenedTiles, finest_opening, frame_opened

if TYPE_CHECKING:
    from napari_wsi_xai.runs import Run, ZoomRun
    from napari_wsi_xai.runs.trace import LevelTrace
    from napari_wsi_xai.tiles import TileGrid

__all__ = ["LevelState", "ZoomFacts", "ZoomSnapshot", "magnification"]


ATTENTION, SELECTION, OPENED = "attention/all", "selection/all", "opened/all"


def magnification(mpp: float) -> str:
    """``"0.5 µm/px"``."""
    return f"{mpp:g} µm/px"


@dataclass(frozen=True, eq=False)
class ZoomFacts:
    """What does not change while a run goes on.

    Attributes
    ----------
    source, name, classes, model, store, group
        As in :class:`~napari_wsi_xai.viewer.snapshot.RunFacts`.
    grids
        The tile grids, coarse to fine.
    """

    source: str
    name: str
    grids: tuple[TileGrid, ...]
    classes: tuple[str, ...]
    model: str = ""
    store: str = ""
    group: Any = None

    @classmethod
    def of(cls, run: ZoomRun) -> ZoomFacts:
        """The facts of a run."""
        about = run.store.attributes
        mpps = [level.mpp for level in run.trace.levels]
        return cls(
            source=str(about["slide"]["source"]),
            name=run.name,
            grids=nested_on(run.levels[0].grid, mpps),
            classes=tuple(run.classes),
            model=str(about["model"]["name"]),
            store="" if run.path is None else str(run.path),
            group=run.store.group if run.path is None else None,
        )

    @property
    def slide_mpp(self) -> tuple[float, float]:
        """Micrometres per level-0 pixel, yx."""
        return self.grids[0].slide_mpp


def nested_on(coarsest: TileGrid, mpps: Sequence[float]) -> tuple[TileGrid, ...]:
    """Where tiles of all magnifications lie, also of those that were not begun."""
    grids = []
    for mpp in mpps:
        ratio = round(coarsest.mpp / mpp)
        shape = (coarsest.shape[0] * ratio, coarsest.shape[1] * ratio)
        grids.append(replace(coarsest, shape=shape, mpp=float(mpp)))
    return tuple(grids)


@dataclass(frozen=True, eq=False)
class LevelState:
    """One magnification.

    Attributes
    ----------
    trace
        What was read, opened and left alone, in tiles.
    grid
        Its tile grid; None before its turn.
    total
        Tiles to be looked at; 0 before its turn.
    attention
        (rows, cols) float32, NaN for tiles not looked at (yet); None before its turn.
    complete
        Whether all were looked at; until then its attention is provisional.
    target
        The class that the attention belongs to; empty where all share it.
    """

    trace: LevelTrace
    grid: TileGrid | None = None
    total: int = 0
    attention: NDArray[np.float32] | None = None
    complete: bool = False
    target: str = ""


@dataclass(frozen=True, eq=False)
class ZoomSnapshot:
    """Maps and numbers of a run over several magnifications at one moment.

    Attributes
    ----------
    levels
        Coarse to fine.
    labels, features, parts
        The opened tiles: see :func:`~napari_wsi_xai.viewer.zoom_frames.frame_opened`.
    probabilities, complete, trained
        As in :class:`~napari_wsi_xai.viewer.snapshot.Snapshot`.
    tissue_left_out
        Share of the tissue, 0 to 1, that no magnification looks at.
    """

    levels: tuple[LevelState, ...]
    labels: Labels
    features: Features
    parts: int
    probabilities: dict[str, float]
    complete: bool
    trained: bool = True
    tissue_left_out: float = 0.0

    @classmethod
    def of(cls, run: ZoomRun) -> ZoomSnapshot:
        """Copy the run's state; called in the thread that drives the run."""
        facts = ZoomFacts.of(run)
        levels = tuple(_states(run))
        labels, features, parts = frame_opened(_opened(run, facts.grids))
        return cls(
            levels=levels,
            labels=labels,
            features=features,
            parts=parts,
            probabilities={name: float(p) for name, p in run.probabilities.items()},
            complete=run.complete,
            trained=bool(run.store.attributes["model"].get("trained", True)),
            tissue_left_out=run.trace.tissue_left_out,
        )

    @property
    def done(self) -> int:
        """Tiles read, at all magnifications."""
        return sum(level.trace.read for level in self.levels)

    @property
    def failed(self) -> int:
        """Tiles that could not be read."""
        return sum(level.trace.failed for level in self.levels)

    @property
    def at_hand(self) -> LevelState:
        """The magnification that is being looked at, or the last one."""
        begun = [level for level in self.levels if level.attention is not None]
        return next((level for level in begun if not level.complete), [self.levels[0], *begun][-1])

    @property
    def standing(self) -> str:
        """``"all 3 magnifications"`` or ``"provisional, at 2 µm/px 30 of 64 tiles"``."""
        if self.complete:
            return f"all {len(self.levels)} magnifications"
        level = self.at_hand
        where = magnification(level.trace.mpp)
        return f"provisional, at {where} {level.trace.read:,} of {level.total:,} tiles"


def _states(run: ZoomRun) -> Iterator[LevelState]:
    """The magnifications that were begun as they stand, then those whose turn has not come."""
    decided = any(level.maps for level in run.levels) and run.complete
    for trace, level in zip_longest(run.trace.levels, run.levels):
        if level is None:
            yield LevelState(trace)
            continue
        key, values = _attention(level, run.classes, decided)
        target = "" if key is None else key.partition("/")[2].removeprefix("all")
        yield LevelState(trace, level.grid, level.total, values, level.complete, target)


def _attention(
    level: Run, classes: tuple[str, ...], decided: bool
) -> tuple[str | None, NDArray[np.float32] | None]:
    """The attention to show, that of the last class where each has its own; NaN before it is known.

    None where the head has none at this magnification, as those that take coarser tiles for
    context only.
    """
    for name in (ATTENTION, *(f"attention/{name}" for name in reversed(classes))):
        if name in level.maps:
            return name, np.array(level.maps[name], dtype=np.float32)
    if decided:
        return None, None
    return None, np.full(level.tissue.shape, np.nan, dtype=np.float32)


def _opened(run: ZoomRun, grids: Sequence[TileGrid]) -> list[OpenedTiles]:
    """What was opened at every magnification but the finest."""
    found = []
    for number in range(finest_opening(len(grids)) + 1):
        maps = run.levels[number].maps if number < len(run.levels) else {}
        opened = maps.get(OPENED, np.zeros(grids[number].shape)) == 1
        index = np.argwhere(opened).astype(np.int64)
        weights = [_values(maps.get(key), opened) for key in (ATTENTION, SELECTION)]
        found.append(OpenedTiles(grids[number], index, *weights))
    return found


def _values(values: NDArray[np.float32] | None, where: NDArray[np.bool_]) -> NDArray[np.float32]:
    if values is None:
        return np.full(int(where.sum()), np.nan, dtype=np.float32)
    return np.asarray(values[where], dtype=np.float32)

"""What a run shows at one moment, copied out of it, so that two threads never share an array."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..runs import Run
    from ..tiles import TileGrid

__all__ = ["RunFacts", "Snapshot", "label_top_tiles"]

TOP_TILES = 10
"""Tiles marked per class."""

FEATURE_COLUMNS = ("index", "class", "score", "row", "column", "y_level0", "x_level0")

Features = dict[str, list[object]]
"""A features table: column name to one value a row."""

METHOD_WORDS = {"tile-scores": "tile score", "attention": "attention"}


@dataclass(frozen=True, eq=False)
class RunFacts:
    """What does not change while a run goes on.

    Attributes
    ----------
    source, name
        The slide's path or URL, and its name for layers.
    grid
        The tile grid.
    classes
        The model's class names.
    model
        The model's name.
    score_kind
        What one tile score is, in words ("attention logit"); empty where not known.
    store
        Path of the result store; empty for a run in memory.
    group
        The Zarr group of a run in memory.
    """

    source: str
    name: str
    grid: TileGrid
    classes: tuple[str, ...]
    model: str = ""
    score_kind: str = ""
    store: str = ""
    group: Any = None

    @classmethod
    def of(cls, run: Run) -> RunFacts:
        """The facts of a run."""
        model = run.store.attributes["model"]
        return cls(
            source=str(run.store.attributes["slide"]["source"]),
            name=run.name,
            grid=run.grid,
            classes=tuple(run.classes),
            model=str(model["name"]),
            score_kind=run.score_kind,
            store="" if run.path is None else str(run.path),
            group=run.store.group if run.path is None else None,
        )


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Maps and numbers of a run at one moment.

    Attributes
    ----------
    maps
        ``"method/class"`` to (rows, cols) float32, NaN where nothing was computed.
    probabilities
        Per class, 0 to 1; empty before the first tiles.
    done, total
        Tissue tiles scored and to be scored.
    complete
        Whether all are; until then every number is provisional.
    failed
        Tiles that could not be read.
    labels, features
        The top tiles: (rows, cols) int32, and a row for each label (index, class, score, row,
        column, y_level0, x_level0).
    """

    maps: dict[str, NDArray[np.float32]]
    probabilities: dict[str, float]
    done: int
    total: int
    complete: bool
    failed: int
    labels: NDArray[np.int32]
    features: Features
    class_of_label: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, maps: dict[str, NDArray[np.float32]] | None = None) -> Snapshot:
        """Copy the run's state; called in the thread that drives the run.

        Parameters
        ----------
        run
            The run.
        maps
            Shown in place of the run's own.
        """
        found = run.maps if maps is None else maps
        maps = {key: np.array(values, dtype=np.float32) for key, values in found.items()}
        labels, features, class_of_label = label_top_tiles(maps, run.grid, tuple(run.classes))
        return cls(
            maps=maps,
            probabilities={name: float(p) for name, p in run.probabilities.items()},
            done=run.done,
            total=run.total,
            complete=run.complete,
            failed=len(run.failures),
            labels=labels,
            features=features,
            class_of_label=class_of_label,
        )

    @property
    def standing(self) -> str:
        """``"final"`` or ``"provisional, 312 of 1,204 tissue tiles"``."""
        if self.complete:
            return "final"
        return f"provisional, {self.done:,} of {self.total:,} tissue tiles"


def label_top_tiles(
    maps: dict[str, NDArray[np.float32]],
    grid: TileGrid,
    classes: tuple[str, ...],
    count: int = TOP_TILES,
) -> tuple[NDArray[np.int32], Features, dict[int, int]]:
    """Mark the ``count`` highest tile scores of every class.

    A tile among the top of several classes goes to the class in which it ranks highest. Where a
    model gives one score for all classes, its tiles are marked once.

    Returns
    -------
    labels
        (rows, cols) int32: 0, or the number of a top tile.
    features
        One row per label, first the background's row 0.
    class_of_label
        Index into ``classes`` of each label, for its colour.
    """
    from ..runs import TopTile, top_tiles

    held: dict[tuple[int, int], tuple[str, TopTile]] = {}
    for name, values in _tile_scores(maps).items():
        for tile in top_tiles(values, grid, count):
            other = held.get((tile.row, tile.column))
            if other is None or tile.rank < other[1].rank:
                held[tile.row, tile.column] = (name, tile)
    names = list(_tile_scores(maps))
    marked = sorted(held.values(), key=lambda item: (names.index(item[0]), item[1].rank))
    labels = np.zeros(grid.shape, dtype=np.int32)
    rows: list[tuple[object, ...]] = [(0, "background", float("nan"), -1, -1, -1, -1)]
    for label, (name, tile) in enumerate(marked, start=1):
        labels[tile.row, tile.column] = label
        place = (tile.row, tile.column, tile.y_level0, tile.x_level0)
        rows.append((label, name, tile.score, *place))
    class_of_label = {
        label: classes.index(name) if name in classes else 0
        for label, (name, _) in enumerate(marked, start=1)
    }
    columns = zip(FEATURE_COLUMNS, zip(*rows, strict=True), strict=True)
    return labels, {name: list(values) for name, values in columns}, class_of_label


def _tile_scores(maps: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Class to tile scores."""
    return {key.split("/", 1)[1]: m for key, m in maps.items() if key.startswith("tile-scores/")}

"""What a run shows at one moment, copied out of it, so that two threads never share an array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari_wsi_xai.runs import Run
    from napari_wsi_xai.tiles import TileGrid

__all__ = [
    "MOST_TOP_TILES",
    "Features",
    "Labels",
    "RunFacts",
    "Snapshot",
    "frame_parts",
    "label_top_tiles",
    "tile_scores",
]

MOST_TOP_TILES = 10
"""Tiles marked per class ..."""

TOP_SHARE = 0.1
"""... but no more than this share of those that have a score."""

FRAME_PARTS = 12
"""A top tile is drawn as a frame a twelfth of a tile thick, so that its tissue stays in view."""

MOST_LABEL_PIXELS = 4_000_000
"""Larger label images get coarser frames, so that repainting takes milliseconds."""

FEATURE_COLUMNS = ("index", "class", "score", "row", "column", "y_level0", "x_level0")

Labels = NDArray[np.uint8] | NDArray[np.uint16]

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

    @property
    def slide_mpp(self) -> tuple[float, float]:
        """Micrometres per level-0 pixel, yx."""
        return self.grid.slide_mpp

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
        The top tiles: see :func:`label_top_tiles`.
    trained
        False for a model with random weights, whose numbers mean nothing.
    """

    maps: dict[str, NDArray[np.float32]]
    probabilities: dict[str, float]
    done: int
    total: int
    complete: bool
    failed: int
    labels: Labels
    features: Features
    trained: bool = True

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
        labels, features = label_top_tiles(maps, run.grid)
        return cls(
            maps=maps,
            probabilities={name: float(p) for name, p in run.probabilities.items()},
            done=run.done,
            total=run.total,
            complete=run.complete,
            failed=len(run.failures),
            labels=labels,
            features=features,
            trained=bool(run.store.attributes["model"].get("trained", True)),
        )

    @property
    def standing(self) -> str:
        """``"all 1,204 tissue tiles"`` or ``"provisional, 312 of 1,204 tissue tiles"``."""
        if self.complete:
            return f"all {self.total:,} tissue tiles"
        return f"provisional, {self.done:,} of {self.total:,} tissue tiles"


def label_top_tiles(
    maps: dict[str, NDArray[np.float32]], grid: TileGrid, count: int = MOST_TOP_TILES
) -> tuple[Labels, Features]:
    """Mark the ``count`` highest tile scores of every class (a tenth of them, if that is fewer).

    Label ``i * count + rank`` is the tile of that rank, from 1, in the i-th class that has a map;
    so every class has the same labels at all times. A tile among the top of several classes goes
    to the class in which it ranks highest. Where a model gives one score for all classes, there
    is one such class, "all".

    Returns
    -------
    labels
        (rows * n, cols * n): the number of a top tile on its rim, else 0; n pixels a tile (see
        :func:`frame_parts`). uint8 where that is enough: napari shows it without conversion.
    features
        One row per label, first the background's row 0: index, class, score, row, column,
        y_level0, x_level0.
    """
    from napari_wsi_xai.runs import TopTile, top_tiles

    scores = tile_scores(maps)
    held: dict[tuple[int, int], tuple[int, TopTile]] = {}
    for position, values in enumerate(scores.values()):
        scored = int(np.isfinite(values).sum())
        for tile in top_tiles(values, grid, min(count, int(np.ceil(scored * TOP_SHARE)))):
            other = held.get((tile.row, tile.column))
            if other is None or tile.rank < other[1].rank:
                held[tile.row, tile.column] = (position, tile)
    parts = frame_parts(grid.shape)
    height, width = grid.shape
    small, size = len(scores) * count <= 255, (height * parts, width * parts)
    labels: Labels = np.zeros(size, np.uint8) if small else np.zeros(size, np.uint16)
    rows: list[tuple[object, ...]] = [(0, "background", float("nan"), -1, -1, -1, -1)]
    names = list(scores)
    for position, tile in sorted(held.values(), key=lambda item: (item[0], item[1].rank)):
        label = position * count + tile.rank
        _frame(labels, parts, tile.row, tile.column, label)
        place = (tile.row, tile.column, tile.y_level0, tile.x_level0)
        rows.append((label, names[position], tile.score, *place))
    columns = zip(FEATURE_COLUMNS, zip(*rows, strict=True), strict=True)
    return labels, {name: list(values) for name, values in columns}


def frame_parts(shape: tuple[int, int], most: int = FRAME_PARTS) -> int:
    """Label pixels per tile edge: ``most``, or fewer on a very large grid."""
    fitting = int(np.sqrt(MOST_LABEL_PIXELS / max(1, shape[0] * shape[1])))
    return int(np.clip(fitting, 1, most))


def _frame(labels: Labels, parts: int, row: int, column: int, label: int) -> None:
    """Draw the rim of a tile, one pixel thick; the whole tile where it has under 3 pixels."""
    tile = labels[row * parts : (row + 1) * parts, column * parts : (column + 1) * parts]
    inner = tile[1:-1, 1:-1].copy()
    tile[...] = label
    if parts >= 3:
        tile[1:-1, 1:-1] = inner


def tile_scores(maps: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The tile scores among ``maps``, by class."""
    return {key.split("/", 1)[1]: m for key, m in maps.items() if key.startswith("tile-scores/")}

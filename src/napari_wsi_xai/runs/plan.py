"""The plan of a run and the one function that turns pixels into features."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import SlideReadError
from napari_wsi_xai.geometry import Mpp
from napari_wsi_xai.slides import Slide, open_slide
from napari_wsi_xai.tiles import TileGrid, read_tiles

if TYPE_CHECKING:
    from napari_wsi_xai.models import Encoder, Engine

__all__ = [
    "Block",
    "BlockPixels",
    "BlockResult",
    "CancelledError",
    "RunPlan",
    "encode_block",
    "encode_pixels",
    "read_block",
]


class CancelledError(Exception):
    """The user asked to stop while a block was being encoded; the block is not complete."""


@dataclass(frozen=True, order=True)
class Block:
    """One square of tiles, by its row and column among the blocks."""

    row: int
    col: int


@dataclass(frozen=True, eq=False)
class RunPlan:
    """Everything a worker needs to encode any block of a slide; small and picklable.

    Attributes
    ----------
    source, mpp
        What :func:`open_slide` reopens the slide from.
    encoder
        The feature extractor f_e.
    grid, selected
        The tile grid and the tiles that make up the bag, (rows, cols) bool.
    block_tiles
        Tiles per side of a block; one block is one chunk of the result.
    precision, engine, device
        As :meth:`Encoder.prepare` takes them; resolved, so that every worker does the same.
    batch_size
        Most tiles per call of the encoder; cancelling acts between two calls.
    """

    source: str
    mpp: Mpp | None
    encoder: Encoder
    grid: TileGrid
    selected: NDArray[np.bool_] = field(repr=False)
    block_tiles: int = 8
    precision: str = "float32"
    engine: str = "auto"
    device: str = "auto"
    batch_size: int = 32

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks that hold at least one selected tile, row by row."""
        corners = np.unique(np.argwhere(self.selected) // self.block_tiles, axis=0)
        return tuple(Block(int(row), int(col)) for row, col in corners)

    def window(self, block: Block) -> tuple[slice, slice]:
        """Rows and columns of the grid that the block covers."""
        size = self.block_tiles
        rows, cols = self.grid.shape
        return (
            slice(block.row * size, min((block.row + 1) * size, rows)),
            slice(block.col * size, min((block.col + 1) * size, cols)),
        )

    def tiles_of(self, block: Block) -> NDArray[np.int64]:
        """(row, column) of the block's selected tiles, row by row, (n, 2)."""
        window = self.window(block)
        inside = np.argwhere(self.selected[window])
        return np.add(inside, [window[0].start, window[1].start], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class BlockPixels:
    """Pixels of a block's readable tiles: ``tiles`` (n, tile_px, tile_px, 3) at ``indices``."""

    block: Block
    indices: NDArray[np.int64]
    tiles: NDArray[np.uint8]
    failures: dict[tuple[int, int], str]
    read_s: float


@dataclass(frozen=True, eq=False)
class BlockResult:
    """Features of one block.

    Attributes
    ----------
    block
        Which one.
    features
        (block rows, block cols, N) float32; NaN where a tile is not tissue or failed.
    failures
        (row, column) on the grid of tiles that could not be used, with the reason.
    tiles
        Number of selected tiles dealt with, failed ones included.
    read_s, inference_s
        Seconds spent on pixels and in the encoder.
    """

    block: Block
    features: NDArray[np.float32]
    failures: dict[tuple[int, int], str]
    tiles: int
    read_s: float
    inference_s: float


def encode_block(plan: RunPlan, block: Block) -> BlockResult:
    """Read one region, drop background, run the encoder, return features.

    A pure function of its arguments: it may run in any thread, process or machine that sees the
    slide's source, and gives the same numbers there for the same engine. Each process keeps the
    slide open and one engine ready between calls.
    """
    return encode_pixels(plan, engine_of(plan), read_block(plan, slide_of(plan), block))


def read_block(plan: RunPlan, slide: Slide, block: Block) -> BlockPixels:
    """Pixels of the block's selected tiles; where the whole fails, tile by tile."""
    start = time.perf_counter()
    indices = plan.tiles_of(block)
    failures: dict[tuple[int, int], str] = {}
    try:
        tiles = read_tiles(slide, plan.grid, indices)
    except SlideReadError:
        indices, tiles, failures = _read_one_by_one(plan, slide, indices)
    return BlockPixels(block, indices, tiles, failures, time.perf_counter() - start)


def _read_one_by_one(
    plan: RunPlan, slide: Slide, indices: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint8], dict[tuple[int, int], str]]:
    tiles, good, failures = [], [], {}
    for index in indices:
        try:
            tiles.append(read_tiles(slide, plan.grid, index[None])[0])
            good.append(index)
        except SlideReadError as error:
            failures[int(index[0]), int(index[1])] = str(error)
    edge = plan.grid.tile_px
    stacked = np.stack(tiles) if tiles else np.empty((0, edge, edge, 3), dtype=np.uint8)
    return np.asarray(good, dtype=np.int64).reshape(-1, 2), stacked, failures


def encode_pixels(
    plan: RunPlan, engine: Engine, pixels: BlockPixels, cancel: threading.Event | None = None
) -> BlockResult:
    """Run the encoder over a block's tiles and lay the descriptors out on the block.

    Raises
    ------
    CancelledError
        ``cancel`` was set between two forward passes.
    """
    start = time.perf_counter()
    rows, cols = plan.window(pixels.block)
    shape = (rows.stop - rows.start, cols.stop - cols.start, plan.encoder.dim)
    features = np.full(shape, np.nan, dtype=np.float32)
    failures = dict(pixels.failures)
    for first in range(0, len(pixels.tiles), plan.batch_size):
        if cancel is not None and cancel.is_set():
            raise CancelledError
        batch = slice(first, first + plan.batch_size)
        descriptors = engine.encode(pixels.tiles[batch])
        finite = np.isfinite(descriptors).all(axis=1)
        for index in pixels.indices[batch][~finite]:
            failures[int(index[0]), int(index[1])] = "the encoder gave a value that is not finite"
        row, col = (pixels.indices[batch][finite] - [rows.start, cols.start]).T
        features[row, col] = descriptors[finite]
    return BlockResult(
        pixels.block,
        features,
        failures,
        len(pixels.indices) + len(pixels.failures),
        pixels.read_s,
        time.perf_counter() - start,
    )


_worker_lock = threading.Lock()


def slide_of(plan: RunPlan) -> Slide:
    """The plan's slide, opened once a process."""
    with _worker_lock:
        return _open_once(plan.source, plan.mpp)


def engine_of(plan: RunPlan) -> Engine:
    """The plan's engine, prepared once a process."""
    key = (plan.encoder.content_hash, plan.precision, plan.device, plan.engine, plan.batch_size)
    with _worker_lock:
        if key not in _engines:
            _engines.clear()  # one model a process: the last one asked for
            _engines[key] = plan.encoder.prepare(
                precision=plan.precision,
                device=plan.device,
                engine=plan.engine,
                batch_size=plan.batch_size,
            )
        return _engines[key]


_engines: dict[tuple[object, ...], Engine] = {}


@lru_cache(maxsize=4)
def _open_once(source: str, mpp: Mpp | None) -> Slide:
    return open_slide(source, mpp=mpp)

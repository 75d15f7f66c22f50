"""A read-only Zarr v3 store that decodes a chunk of a slide when it is asked for.

Layout: the root is an OME-Zarr 0.5 multiscale group whose arrays ``0``, ``1``, ... have axes
(c, y, x); ``yxc/0``, ``yxc/1``, ... are the same levels with axes (y, x, c), the order Python
image libraries want. Both serve the same bytes: the former state a transpose codec.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)

from napari_wsi_xai.geometry import Mpp
from napari_wsi_xai.slides.backend import Level, Pixels
from napari_wsi_xai.slides.multiscales import ome_attributes
from napari_wsi_xai.slides.reader import Reader

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer, BufferPrototype

__all__ = ["YXC", "RegionStore", "chunk_edge"]

CHUNK_LIMIT = 1024
CHUNK_TARGET = 512
YXC = "yxc"
"""Group of the arrays with axes (y, x, c)."""

_pools: dict[int, ThreadPoolExecutor] = {}


def _pool() -> ThreadPoolExecutor:
    """Threads that decode chunks, one pool a process.

    Not Zarr's own pool: a chunk of an OME-Zarr slide is read through Zarr again, and waiting for
    that inside the pool that has to do it would never end.
    """
    pid = os.getpid()
    if pid not in _pools:
        workers = min(16, (os.cpu_count() or 2) + 2)
        _pools[pid] = ThreadPoolExecutor(workers, thread_name_prefix="slide-chunk")
    return _pools[pid]


def chunk_edge(tile: int, extent: int) -> int:
    """Edge of a chunk on a level ``extent`` pixels long whose file stores tiles of edge ``tile``.

    A multiple of the tile, or for tiles above 1024 a divisor, so that chunks and tiles align.
    """
    if tile <= CHUNK_LIMIT:
        edge = tile * max(1, CHUNK_TARGET // tile)
    else:
        parts = (n for n in range(2, tile // 256 + 1) if tile % n == 0 and tile // n <= CHUNK_LIMIT)
        edge = tile // next(parts, tile)
        edge = edge if edge > 1 else CHUNK_TARGET
    return min(edge, extent)


class RegionStore(Store):
    """A slide as a Zarr v3 group of uncompressed chunks, decoded on demand and never kept.

    Parameters
    ----------
    reader
        Where the pixels come from.
    name
        Name of the multiscale image.
    mpp
        Micrometres per level-0 pixel (y, x), or ``None``.
    reopen
        Function and arguments that give an equal store in another process.
    """

    def __init__(
        self,
        reader: Reader,
        name: str,
        mpp: Mpp | None,
        reopen: tuple[Callable[..., RegionStore], tuple[Any, ...]],
    ) -> None:
        super().__init__(read_only=True)
        self._reader = reader
        self._reopen = reopen
        levels = reader.description.levels
        self._chunks = [
            (chunk_edge(lv.tile[0], lv.shape[0]), chunk_edge(lv.tile[1], lv.shape[1]))
            for lv in levels
        ]
        self._documents = self._metadata(levels, name, mpp)

    def _metadata(
        self, levels: tuple[Level, ...], name: str, mpp: Mpp | None
    ) -> dict[str, dict[str, Any]]:
        paths = [str(i) for i in range(len(levels))]
        attributes = ome_attributes(name, paths, [lv.downsample for lv in levels], mpp)
        group = {"zarr_format": 3, "node_type": "group"}
        documents: dict[str, dict[str, Any]] = {
            "zarr.json": group | {"attributes": attributes},
            f"{YXC}/zarr.json": group | {"attributes": {}},
        }
        for i, (lv, chunk) in enumerate(zip(levels, self._chunks, strict=True)):
            documents[f"{i}/zarr.json"] = self._array(lv, chunk, "cyx")
            documents[f"{YXC}/{i}/zarr.json"] = self._array(lv, chunk, "yxc")
        return documents

    def _array(self, level: Level, chunk: tuple[int, int], axes: str) -> dict[str, Any]:
        sizes = {"y": (level.shape[0], chunk[0]), "x": (level.shape[1], chunk[1]), "c": (3, 3)}
        codecs: list[dict[str, Any]] = [{"name": "bytes"}]
        if axes == "cyx":  # stored as (y, x, c), like the pixels come out of every decoder
            codecs.insert(0, {"name": "transpose", "configuration": {"order": [1, 2, 0]}})
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [sizes[a][0] for a in axes],
            "data_type": "uint8",
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [sizes[a][1] for a in axes]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 255,
            "codecs": codecs,
            "dimension_names": list(axes),
            "attributes": {},
        }

    # -- chunks --------------------------------------------------------------------------------

    def _locate(self, key: str) -> tuple[int, int, int] | None:
        """Level, chunk row and chunk column of a chunk key; ``None`` for any other key."""
        parts = key.split("/")
        order = slice(3, 5)
        if parts[0] == YXC:
            parts = parts[1:]
            order = slice(2, 4)
        if len(parts) != 5 or parts[1] != "c":
            return None
        numbers = [parts[0], *parts[2:]]
        if not all(n.isdecimal() for n in numbers):
            return None
        level, (row, column) = int(parts[0]), (int(n) for n in parts[order])
        if level >= len(self._chunks) or sum(int(n) for n in numbers) != level + row + column:
            return None
        rows, columns = self._grid(level)
        return (level, row, column) if row < rows and column < columns else None

    def _grid(self, level: int) -> tuple[int, int]:
        shape, chunk = self._reader.description.levels[level].shape, self._chunks[level]
        return -(-shape[0] // chunk[0]), -(-shape[1] // chunk[1])

    def _decode(self, level: int, row: int, column: int) -> Pixels:
        """A whole chunk (y, x, c); beyond the edge of the level it holds the background."""
        height, width = self._chunks[level]
        y, x = row * height, column * width
        rows, columns = self._reader.description.levels[level].shape
        inside = min(height, rows - y), min(width, columns - x)
        pixels = self._reader.read(level, y, x, *inside)
        if inside == (height, width):
            return np.ascontiguousarray(pixels)
        chunk = np.empty((height, width, 3), dtype=np.uint8)
        chunk[:] = self._reader.description.background
        chunk[: inside[0], : inside[1]] = pixels
        return chunk

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Metadata document or decoded chunk ``key``; ``None`` where there is none."""
        if key in self._documents:
            text = json.dumps(self._documents[key]).encode()
            data = np.frombuffer(text, dtype=np.uint8)
        else:
            place = self._locate(key)
            if place is None:
                return None
            loop = asyncio.get_running_loop()
            data = (await loop.run_in_executor(_pool(), self._decode, *place)).reshape(-1)
        return prototype.buffer.from_array_like(_part(data, byte_range))

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Several values at once."""
        gets = (self.get(key, prototype, byte_range) for key, byte_range in key_ranges)
        return list(await asyncio.gather(*gets))

    # -- keys ----------------------------------------------------------------------------------

    async def exists(self, key: str) -> bool:
        """Whether there is such a document or chunk."""
        return key in self._documents or self._locate(key) is not None

    def _keys(self) -> Iterator[str]:
        yield from self._documents
        for level in range(len(self._chunks)):
            rows, columns = self._grid(level)
            for row in range(rows):
                for column in range(columns):
                    yield f"{level}/c/0/{row}/{column}"
                    yield f"{YXC}/{level}/c/{row}/{column}/0"

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        for key in self._keys():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """All keys that start with ``prefix``."""
        for key in self._keys():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names directly below ``prefix``."""
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        names = {k[len(start) :].split("/")[0]: None for k in self._keys() if k.startswith(start)}
        for name in names:
            yield name

    # -- what a read-only store has to say -----------------------------------------------------

    @property
    def supports_writes(self) -> bool:
        """False."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """False."""
        return False

    @property
    def supports_listing(self) -> bool:
        """True."""
        return True

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse: slides are read-only."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refuse: slides are read-only."""
        self._check_writable()

    def __eq__(self, other: object) -> bool:
        """Stores are equal that serve the same open slide."""
        return isinstance(other, RegionStore) and other._reader is self._reader

    def __hash__(self) -> int:
        return hash(id(self._reader))

    def __reduce__(self) -> tuple[Callable[..., RegionStore], tuple[Any, ...]]:
        return self._reopen

    def __repr__(self) -> str:
        return f"RegionStore({self._reader.name!r})"


def _part(data: np.ndarray[Any, Any], byte_range: ByteRequest | None) -> np.ndarray[Any, Any]:
    """The bytes asked for."""
    if isinstance(byte_range, RangeByteRequest):
        return data[byte_range.start : byte_range.end]
    if isinstance(byte_range, OffsetByteRequest):
        return data[byte_range.offset :]
    if isinstance(byte_range, SuffixByteRequest):
        return data[-byte_range.suffix :] if byte_range.suffix else data[:0]
    return data

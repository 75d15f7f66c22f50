"""Pixels of tiled or striped RGB TIFF pages, each compressed tile decoded once and kept a while."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_wsi_xai.errors import UnsupportedSlideError
from napari_wsi_xai.slides.backend import Pixels, composite

__all__ = ["TiffTiles", "TileCache", "check_page"]

CACHE_BYTES = 64 * 1024**2
TILE_LIMIT_BYTES = 1024**3

RGB = 2
YCBCR = 6
CONTIGUOUS = 1
UNCOMPRESSED = 1
OPAQUE_EXTRA, ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 0, 1, 2
# JPEG decoders turn YCbCr into RGB themselves; 33003 (JPEG 2000, YCbCr) comes out unconverted.
CONVERTED_COMPRESSIONS = {6, 7, 34892, 33007}

Key = tuple[int, int]


class TileCache:
    """Least recently used tiles up to a number of bytes. Thread-safe."""

    def __init__(self, capacity_bytes: int = CACHE_BYTES) -> None:
        self._capacity = capacity_bytes
        self._used = 0
        self._tiles: OrderedDict[Key, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key) -> Pixels | None:
        """The tile, or ``None`` where it is not kept."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def put(self, key: Key, tile: Pixels) -> None:
        """Keep ``tile`` and drop the longest unused ones above the capacity."""
        with self._lock:
            if key in self._tiles:
                return
            self._tiles[key] = tile
            self._used += tile.nbytes
            while self._used > self._capacity and len(self._tiles) > 1:
                self._used -= self._tiles.popitem(last=False)[1].nbytes


def check_page(page: Any) -> None:
    """Refuse a page whose pixels are not 8-bit RGB or RGBA, or whose codec is not at hand.

    Raises
    ------
    UnsupportedSlideError
        With what the page holds and what is supported.
    """
    import tifffile

    has = f"{page.samplesperpixel} x {page.bitspersample}-bit samples"
    supported = "8-bit RGB or RGBA is supported; other images must be converted to it first"
    if page.dtype is None or page.dtype != np.uint8 or page.bitspersample != 8:
        raise UnsupportedSlideError(f"the image has {has} of type {page.dtype}: {supported}.")
    if page.samplesperpixel not in (3, 4):
        raise UnsupportedSlideError(
            f"the image has {has}, as fluorescence or grey images do: {supported}."
        )
    converts = page.photometric == YCBCR and page.compression in CONVERTED_COMPRESSIONS
    if page.photometric != RGB and not converts:
        raise UnsupportedSlideError(
            f"the image has the colour model {_label(page.photometric)}: {supported}."
        )
    if page.compression != UNCOMPRESSED and page.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise UnsupportedSlideError(
            f"the compression {_label(page.compression)} is unknown: convert the file to "
            "JPEG, JPEG 2000 or Deflate."
        )
    if page.imagedepth != 1 or page.tiledepth not in (0, 1):
        raise UnsupportedSlideError("the image is a volume: only flat images are slides.")
    if int(np.prod(page.chunks)) > TILE_LIMIT_BYTES:
        raise UnsupportedSlideError(
            f"the image is stored in pieces of {page.chunks} samples, above the limit of 1 GiB: "
            "convert it to a tiled TIFF."
        )


def _label(value: Any) -> str:
    return str(getattr(value, "name", value))


class _Page:
    """Where the tiles of one page lie and how they are decoded."""

    def __init__(self, page: Any, background: tuple[int, int, int]) -> None:
        keyframe = page.keyframe
        self.shape: tuple[int, int] = (keyframe.imagelength, keyframe.imagewidth)
        tile = (
            (keyframe.tilelength, keyframe.tilewidth)
            if keyframe.is_tiled
            else (keyframe.rowsperstrip, keyframe.imagewidth)
        )
        self.tile: tuple[int, int] = (min(tile[0], keyframe.imagelength), tile[1])
        self.step: tuple[int, int] = tile
        self.columns = -(-self.shape[1] // tile[1])
        self.segments = self.columns * -(-self.shape[0] // tile[0])
        self.offsets: Sequence[int] = page.dataoffsets
        self.counts: Sequence[int] = page.databytecounts
        self._decode = keyframe.decode
        self._tables: dict[str, Any] = {}
        if page.jpegtables is not None:
            self._tables["jpegtables"] = page.jpegtables
        if page.jpegheader is not None:
            self._tables["jpegheader"] = page.jpegheader
        self._planes = 1 if keyframe.planarconfig == CONTIGUOUS else keyframe.samplesperpixel
        extra = tuple(keyframe.extrasamples) or (OPAQUE_EXTRA,)
        self._alpha = int(extra[0]) if keyframe.samplesperpixel == 4 else OPAQUE_EXTRA
        self._background = background

    def tile_pixels(self, file: _File, index: int) -> Pixels:
        """Tile ``index`` as RGB; tiles that the file leaves out are background."""
        planes = []
        for plane in range(self._planes):
            segment = index + plane * self.segments
            if self.counts[segment] == 0:
                return np.broadcast_to(np.asarray(self._background, np.uint8), (*self.step, 3))
            data = file.read(self.offsets[segment], self.counts[segment])
            decoded = self._decode(data, segment, **self._tables)[0]
            planes.append(decoded.reshape(decoded.shape[-3:]))
        pixels: Pixels = planes[0] if self._planes == 1 else np.concatenate(planes, axis=-1)
        if pixels.shape[-1] == 3:
            return pixels
        if self._alpha == OPAQUE_EXTRA:
            return np.ascontiguousarray(pixels[..., :3])
        premultiplied = self._alpha == ASSOCIATED_ALPHA
        return composite(pixels[..., :3], pixels[..., 3], self._background, premultiplied)


class _File:
    """Reads at offsets from any thread, without a lock where the system can.

    Closed when the last reader lets go of it, so that closing a slide in one thread never pulls
    the file from under a read in another.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            data = os.pread(self._descriptor, count, offset)
        else:
            with self._lock:
                os.lseek(self._descriptor, offset, os.SEEK_SET)
                data = os.read(self._descriptor, count)
        if len(data) != count:
            raise EOFError(f"the file ends {count - len(data)} bytes before the tile does")
        return data

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # As a default: where the interpreter ends first, this module has lost its ``os``.
        if hasattr(self, "_descriptor"):
            close(self._descriptor)


class TiffTiles:
    """Regions of the levels of a TIFF pyramid.

    Parameters
    ----------
    path
        The file.
    pages
        One ``tifffile`` page a level, finest first, each checked by :func:`check_page`.
    background
        RGB colour behind transparent pixels and missing tiles.
    cache_bytes
        How much of decoded tiles is kept.
    """

    def __init__(
        self,
        path: Path,
        pages: Sequence[Any],
        background: tuple[int, int, int] = (255, 255, 255),
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._pages = [_Page(page, background) for page in pages]
        self._file: _File | None = _File(path)
        self._cache = TileCache(cache_bytes)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Sizes (y, x) of the levels."""
        return [page.shape for page in self._pages]

    @property
    def tile_shapes(self) -> list[tuple[int, int]]:
        """Sizes (y, x) of the stored tiles of each level."""
        return [page.tile for page in self._pages]

    @property
    def complete(self) -> bool:
        """Whether the file holds every tile of every level."""
        return all(min(page.counts, default=0) > 0 for page in self._pages)

    def _tile(self, level: int, index: int) -> Pixels:
        key = (level, index)
        tile = self._cache.get(key)
        if tile is None:
            file = self._file
            if file is None:
                raise ValueError("the file is closed")
            tile = self._pages[level].tile_pixels(file, index)
            self._cache.put(key, tile)
        return tile

    def read(self, level: int, y: int, x: int, height: int, width: int) -> Pixels:
        """Pixels of a rectangle wholly inside ``level``, (y, x, 3) uint8."""
        page = self._pages[level]
        th, tw = page.step
        region = np.empty((height, width, 3), dtype=np.uint8)
        for row in range(y // th, -(-(y + height) // th)):
            top, bottom = max(y, row * th), min(y + height, (row + 1) * th)
            for column in range(x // tw, -(-(x + width) // tw)):
                left, right = max(x, column * tw), min(x + width, (column + 1) * tw)
                tile = self._tile(level, row * page.columns + column)
                region[top - y : bottom - y, left - x : right - x] = tile[
                    top - row * th : bottom - row * th, left - column * tw : right - column * tw
                ]
        return region

    def close(self) -> None:
        """Let the file go."""
        self._file = None

"""Slides read through OpenSlide: SVS, NDPI, MRXS, SCN, BIF, DICOM and more."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_wsi_xai.errors import UnsupportedSlideError
from napari_wsi_xai.geometry import Mpp, Region
from napari_wsi_xai.slides.backend import Description, Level, Pixels, composite, one_line
from napari_wsi_xai.slides.fingerprint import fingerprint_files
from napari_wsi_xai.slides.resolution import TIFF_LIMITS_UM, mpp_from_file
from napari_wsi_xai.slides.tiff_tiles import TiffTiles, check_page

__all__ = ["OpenSlideBackend"]

WHITE = (255, 255, 255)
JPEG, JPEG2000_RGB = 7, 33005


class OpenSlideBackend:
    """A slide opened by OpenSlide.

    The pixels of Aperio files are read by decoding each stored tile once instead, several times
    faster; a level is read so only after one of its tiles came out bit for bit as OpenSlide
    gives it.

    Parameters
    ----------
    path
        The file OpenSlide wants.
    files
        All files of the slide with the names that count for the fingerprint.

    Raises
    ------
    UnsupportedSlideError
        OpenSlide does not open it.
    """

    kind = "openslide"

    def __init__(self, path: Path, files: Sequence[tuple[str, Path]] | None = None) -> None:
        self._path = path
        self._files = files or [("", path)]
        self._lock = threading.Lock()
        self._handle: Any = self._open()
        self.description = _describe(self._handle)
        self._tiles = _stored_tiles(path, self.description)
        self._proved: dict[int, bool] = {}

    def _open(self) -> Any:
        import openslide

        try:
            return openslide.OpenSlide(self._path)
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise UnsupportedSlideError("OpenSlide does not know the format") from error
        except openslide.OpenSlideError as error:
            raise UnsupportedSlideError(f"OpenSlide cannot open it ({one_line(error)})") from error

    def read(self, level: int, y: int, x: int, height: int, width: int) -> Pixels:
        """Pixels of a rectangle wholly inside ``level``.

        On a level with a non-integer downsample OpenSlide starts at the nearest level-0 pixel,
        up to half a level-0 pixel off, and interpolates.
        """
        tiles = self._tiles
        if tiles is not None and self._is_proved(tiles, level):
            try:
                return tiles.read(level, y, x, height, width)
            except Exception:  # OpenSlide may know better, or says what is wrong
                return self._read(level, y, x, height, width)
        return self._read(level, y, x, height, width)

    def _is_proved(self, tiles: TiffTiles, level: int) -> bool:
        """Whether the tile in the middle of ``level`` decodes to what OpenSlide gives."""
        with self._lock:
            known = self._proved.get(level)
        if known is not None:
            return known
        told = self.description.levels[level]
        y, height = _comparable(told.shape[0], told.tile[0], told.downsample)
        x, width = _comparable(told.shape[1], told.tile[1], told.downsample)
        try:
            one = tiles.read(level, y, x, height, width)
            other = self._read(level, y, x, height, width)
            equal = bool(np.array_equal(one, other))
        except Exception:
            equal = False
        with self._lock:
            self._proved[level] = equal
        return equal

    def _read(self, level: int, y: int, x: int, height: int, width: int) -> Pixels:
        """Pixels from OpenSlide itself."""
        import openslide

        step = self.description.levels[level].downsample
        handle = self._current()
        try:
            return _region(
                handle, (round(x * step), round(y * step)), level, (width, height), self._background
            )
        except openslide.OpenSlideError:
            self._renew(handle)
            raise

    @property
    def _background(self) -> tuple[int, int, int]:
        return self.description.background

    def _current(self) -> Any:
        """The live handle; opened again after a failure."""
        with self._lock:
            if self._handle is None:
                self._handle = self._open()
            return self._handle

    def _renew(self, failed: Any) -> None:
        """Forget a failed handle: after any error OpenSlide refuses everything on it.

        It is not closed here, since other threads may be reading with it; it closes when the
        last of them lets go.
        """
        with self._lock:
            if self._handle is failed:
                self._handle = None

    def read_associated(self, name: str) -> Pixels:
        """Decode an associated image."""
        import openslide

        handle = self._current()
        try:
            image = np.asarray(handle.associated_images[name])
        except openslide.OpenSlideError:
            self._renew(handle)
            raise
        return composite(image[..., :3], image[..., 3], self._background, premultiplied=False)

    def fingerprint(self) -> str:
        """Digest of names, sizes and samples of the slide's files."""
        return fingerprint_files(self._files)

    def close(self) -> None:
        """Let the handle go; it closes when the last thread that reads with it is done."""
        with self._lock:
            self._handle = None
            if self._tiles is not None:
                self._tiles.close()


def _comparable(extent: int, tile: int, step: float) -> tuple[int, int]:
    """Start and length of the tile nearest the middle where OpenSlide does not interpolate.

    That is where a level-0 pixel falls on the tile's first pixel; on 0 it always does.
    """
    starts = range(0, extent, tile)
    aligned = [s for s in starts if abs(round(s * step) / step - s) < 1e-3]
    start = min(aligned, key=lambda s: abs(s + tile / 2 - extent / 2))
    return start, min(tile, extent - start)


def _region(
    handle: Any,
    origin_xy: tuple[int, int],
    level: int,
    size_xy: tuple[int, int],
    background: tuple[int, int, int],
) -> Pixels:
    """Region as RGB on ``background``.

    Reads OpenSlide's own premultiplied BGRA where the binding lets us (a quarter less time than
    through an RGBA PIL image, and compositing is exact), else through the public call.
    """
    from openslide import lowlevel

    width, height = size_xy
    if not hasattr(lowlevel, "_read_region") or not hasattr(handle, "_osr"):
        rgba = np.asarray(handle.read_region(origin_xy, level, size_xy))
        return composite(rgba[..., :3], rgba[..., 3], background, premultiplied=False)
    words = np.empty((height, width), dtype=np.uint32)
    pointer = words.ctypes.data_as(ctypes.POINTER(ctypes.c_uint32))
    lowlevel._read_region(handle._osr, pointer, *origin_xy, level, width, height)
    # The words are native-endian ARGB.
    little = words if words.dtype.newbyteorder("<") == words.dtype else words.byteswap()
    bgra = little.view(np.uint8).reshape(height, width, 4)
    rgb = np.empty((height, width, 3), dtype=np.uint8)
    for channel in range(3):
        rgb[..., channel] = bgra[..., 2 - channel]
    if words.size == 0 or int(words.min()) >= 0xFF000000:
        return rgb
    return composite(rgb, bgra[..., 3], background, premultiplied=True)


def _describe(handle: Any) -> Description:
    properties: Mapping[str, str] = dict(handle.properties)
    levels = []
    for i, ((width, height), step) in enumerate(
        zip(handle.level_dimensions, handle.level_downsamples, strict=True)
    ):
        tile = tuple(int(properties.get(f"openslide.level[{i}].tile-{a}", 256)) for a in _SIZES)
        levels.append(Level((height, width), float(step), (tile[0], tile[1])))
    return Description(
        levels=tuple(levels),
        mpp=_mpp(properties),
        bounds=_bounds(properties, levels[0].shape),
        background=_background(properties),
        vendor=properties.get("openslide.vendor"),
        objective_power=_number(properties.get("openslide.objective-power")),
        properties=properties,
        associated={
            name: (
                int(properties[f"openslide.associated.{name}.height"]),
                int(properties[f"openslide.associated.{name}.width"]),
            )
            for name in handle.associated_images
            if f"openslide.associated.{name}.height" in properties
        },
    )


_SIZES = ("height", "width")


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _mpp(properties: Mapping[str, str]) -> Mpp | None:
    pair = mpp_from_file(
        _number(properties.get("openslide.mpp-y")), _number(properties.get("openslide.mpp-x"))
    )
    if pair and properties.get("openslide.vendor") == "generic-tiff":
        # Here OpenSlide repeats the resolution tags, which may be a printing resolution.
        low, high = TIFF_LIMITS_UM
        return pair if all(low <= v <= high for v in pair) else None
    return pair


def _bounds(properties: Mapping[str, str], shape: tuple[int, int]) -> Region:
    """The scanned rectangle, cut to the slide."""
    numbers = [_number(properties.get(f"openslide.bounds-{k}")) for k in ("y", "x", *_SIZES)]
    if any(n is None for n in numbers):
        return Region(0, 0, *shape)
    y, x, height, width = (int(n or 0) for n in numbers)
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + height, shape[0]), min(x + width, shape[1])
    if top >= bottom or left >= right:
        return Region(0, 0, *shape)
    return Region(top, left, bottom - top, right - left)


def _background(properties: Mapping[str, str]) -> tuple[int, int, int]:
    text = properties.get("openslide.background-color", "")
    if not re.fullmatch(r"#?[0-9A-Fa-f]{6}", text):
        return WHITE
    value = int(text.lstrip("#"), 16)
    return value >> 16, value >> 8 & 255, value & 255


def _stored_tiles(path: Path, description: Description) -> TiffTiles | None:
    """The file's own tiles where they can stand in for OpenSlide's reads, else ``None``."""
    if description.vendor != "aperio":
        return None
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [level.pages[0] for level in tiff.series[0].levels]
            for page in pages:
                check_page(page.keyframe)
            if not all(p.is_tiled and p.compression in (JPEG, JPEG2000_RGB) for p in pages):
                return None
            tiles = TiffTiles(path, pages, description.background)
    except Exception:  # only a faster way; OpenSlide reads the file anyhow
        return None
    same = tiles.shapes == [level.shape for level in description.levels]
    return tiles if same and tiles.complete else None

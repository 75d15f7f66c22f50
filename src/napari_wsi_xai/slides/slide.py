"""The slide: one object for every file format."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np
import zarr

from napari_wsi_xai.errors import BadArgumentError, MissingMppError
from napari_wsi_xai.geometry import Mpp, Region
from napari_wsi_xai.slides.backend import Backend, Pixels
from napari_wsi_xai.slides.reader import Reader
from napari_wsi_xai.slides.store import YXC, RegionStore

__all__ = ["Slide"]


class Slide:
    """A whole-slide image, open for reading. Made by :func:`napari_wsi_xai.slides.open_slide`.

    Thread-safe; pickles as its source and is opened again by whoever unpickles it; a context
    manager that closes it.

    Attributes
    ----------
    source
        Absolute path or URL.
    name
        Stem of the source, for layer and file names.
    backend
        ``"openslide"``, ``"tifffile"`` or ``"ome-zarr"``.
    shape
        Size of level 0 in pixels, (y, x).
    downsamples
        Level-0 pixels per pixel of each level, 1.0 first; non-integers are kept.
    mpp
        Micrometres per level-0 pixel (y, x), or ``None`` if neither file nor user said.
    mpp_source
        ``"file"``, ``"user"`` or ``None``.
    bounds
        Level-0 rectangle that holds the scanned region.
    background
        RGB colour of what was not scanned.
    objective_power
        Nominal magnification of the scan, or ``None``. Never used to derive ``mpp``.
    vendor
        Scanner vendor or format variant, or ``None``.
    properties
        All metadata of the file, as text. May hold patient data.
    """

    def __init__(self, backend: Backend, source: str, name: str, mpp: Mpp | None = None) -> None:
        told = backend.description
        self.source = source
        self.name = name
        self.backend = backend.kind
        self.shape: tuple[int, int] = told.levels[0].shape
        self.downsamples: tuple[float, ...] = tuple(lv.downsample for lv in told.levels)
        self.mpp: Mpp | None = mpp or told.mpp
        self.mpp_source: str | None = "user" if mpp else ("file" if told.mpp else None)
        self.bounds: Region = told.bounds
        self.background: tuple[int, int, int] = told.background
        self.objective_power: float | None = told.objective_power
        self.vendor: str | None = told.vendor
        self.properties: Mapping[str, str] = MappingProxyType(dict(told.properties))
        self._user_mpp = mpp
        self._reader = Reader(backend, name)
        self._lock = threading.RLock()

    @cached_property
    def store(self) -> RegionStore:
        """The slide as a read-only Zarr v3 store, itself an OME-Zarr 0.5 image."""
        return RegionStore(
            self._reader, self.name, self.mpp, (_reopen_store, (self.source, self._user_mpp))
        )

    @cached_property
    def levels(self) -> tuple[zarr.Array[Any], ...]:
        """Arrays (y, x, c=3) uint8 of all levels, decoded a chunk at a time."""
        with self._lock:
            group = zarr.open_group(self.store, mode="r", path=YXC, zarr_format=3)
            arrays = (group[str(i)] for i in range(len(self.downsamples)))
            return tuple(a for a in arrays if isinstance(a, zarr.Array))

    @property
    def level_shapes(self) -> tuple[tuple[int, int], ...]:
        """Sizes (y, x) of all levels in their own pixels."""
        return tuple(lv.shape for lv in self._reader.description.levels)

    @property
    def associated_sizes(self) -> dict[str, tuple[int, int]]:
        """Sizes (y, x) of the associated images by name, without decoding them."""
        return dict(self._reader.description.associated)

    @cached_property
    def associated_images(self) -> Mapping[str, Pixels]:
        """Label, macro and thumbnail by name, (y, x, 3) uint8; decoded on access only.

        Labels and macros often show patient data.
        """
        return AssociatedImages(self._reader)

    @cached_property
    def fingerprint(self) -> str:
        """``"sha256:..."`` of the content, from at most about 1 MB of it.

        The same for a copy or a renamed file; reads too little to notice every change.
        """
        with self._lock:
            return self._reader.backend.fingerprint()

    def read_region(
        self, origin_level0: tuple[int, int], shape: tuple[int, int], level: int = 0
    ) -> Pixels:
        """Pixels of a rectangle; outside the slide they have the background colour.

        Parameters
        ----------
        origin_level0
            First corner (y, x) in level-0 pixels, rounded to the nearest pixel of ``level``
            (half a pixel goes up).
        shape
            Size (y, x) in pixels of ``level``.
        level
            Index into :attr:`levels`.

        Returns
        -------
        numpy.ndarray
            (y, x, 3) uint8.

        Raises
        ------
        BadArgumentError
            There is no such level, or the size is negative.
        SlideReadError
            The pixels cannot be decoded; the next call starts with a fresh handle.
        """
        rows, columns = self._level_shape(level)
        height, width = (int(n) for n in shape)
        if height < 0 or width < 0:
            raise BadArgumentError(f"shape={tuple(shape)} is negative: give pixels (y, x).")
        step = self.downsamples[level]
        y, x = (math.floor(v / step + 0.5) for v in origin_level0)
        top, left = max(y, 0), max(x, 0)
        bottom, right = max(top, min(y + height, rows)), max(left, min(x + width, columns))
        inside = (bottom - top, right - left) == (height, width)
        if inside and height and width:
            return self.read_level(level, top, left, height, width)
        region = np.empty((height, width, 3), dtype=np.uint8)
        region[:] = self.background
        if top < bottom and left < right:
            part = self._reader.read(level, top, left, bottom - top, right - left)
            region[top - y : bottom - y, left - x : right - x] = part
        return region

    def read_level(self, level: int, y: int, x: int, height: int, width: int) -> Pixels:
        """Pixels (y, x, 3) uint8 of a rectangle wholly inside ``level``, in its own pixels.

        Exact on levels with non-integer downsamples, where level-0 coordinates have to be rounded.

        Raises
        ------
        BadArgumentError
            The rectangle is not inside the level.
        SlideReadError
            The pixels cannot be decoded.
        """
        rows, columns = self._level_shape(level)
        if min(y, x, height, width) < 0 or y + height > rows or x + width > columns:
            raise BadArgumentError(
                f"rows {y} to {y + height}, columns {x} to {x + width} exceed level {level} "
                f"({rows} x {columns}): stay inside, or use read_region."
            )
        if height == 0 or width == 0:
            return np.empty((height, width, 3), dtype=np.uint8)
        return self._reader.read(level, y, x, height, width)

    def _level_shape(self, level: int) -> tuple[int, int]:
        levels = self._reader.description.levels
        if not 0 <= level < len(levels):
            raise BadArgumentError(
                f"level={level} is not in {self.name}: give 0 to {len(levels) - 1}."
            )
        return levels[level].shape

    def require_mpp(self) -> Mpp:
        """Micrometres per level-0 pixel (y, x).

        Raises
        ------
        MissingMppError
            Neither the file nor the user said.
        """
        if self.mpp is None:
            raise MissingMppError(
                f"{self.name} does not state its micrometres per pixel: give them with --mpp, "
                'open_slide(..., mpp=...) or the field "Micrometres per pixel".'
            )
        return self.mpp

    def close(self) -> None:
        """Let the files go; later reads raise ``SlideReadError``."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., Slide], tuple[str, Mpp | None]]:
        return _reopen, (self.source, self._user_mpp)

    def __repr__(self) -> str:
        height, width = self.shape
        return (
            f"<Slide {self.name!r}: {height} x {width} px (y, x), {len(self.downsamples)} levels, "
            f"mpp {self.mpp}, {self.backend}>"
        )


class AssociatedImages(Mapping[str, Pixels]):
    """Read-only mapping that decodes an image each time it is asked for, and never before."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __getitem__(self, name: str) -> Pixels:
        if name not in self._reader.description.associated:
            raise KeyError(name)
        return self._reader.read_associated(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.description.associated)

    def __len__(self) -> int:
        return len(self._reader.description.associated)

    def __repr__(self) -> str:
        return f"AssociatedImages({', '.join(self)})"


def _reopen(source: str, mpp: Mpp | None) -> Slide:
    from napari_wsi_xai.slides.sources import open_slide

    return open_slide(source, mpp)


def _reopen_store(source: str, mpp: Mpp | None) -> RegionStore:
    return _reopen(source, mpp).store

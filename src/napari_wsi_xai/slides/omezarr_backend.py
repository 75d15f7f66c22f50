"""OME-Zarr 0.4 and 0.5 slides, local or behind a URL, with their axes in any order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from napari_wsi_xai.errors import UnsupportedSlideError
from napari_wsi_xai.geometry import Mpp, Region
from napari_wsi_xai.slides.backend import Description, Level, Pixels, composite, one_line
from napari_wsi_xai.slides.fingerprint import fingerprint_pyramid
from napari_wsi_xai.slides.multiscales import OWN_ATTRIBUTES
from napari_wsi_xai.slides.resolution import mpp_from_file, unit_um

__all__ = ["OmeZarrBackend"]

WHITE = (255, 255, 255)
SAMPLE_PX = 256


@dataclass(frozen=True)
class _Axes:
    """Positions of the axes: y, x, c, and how many there are."""

    y: int
    x: int
    c: int
    units: tuple[str | None, str | None]
    count: int


class OmeZarrBackend:
    """A multiscale OME-Zarr image of 8-bit RGB or RGBA.

    Parameters
    ----------
    group
        The image's Zarr group, open for reading.

    Raises
    ------
    UnsupportedSlideError
        No multiscale image, or not 8-bit RGB in one plane.
    """

    kind = "ome-zarr"

    def __init__(self, group: zarr.Group) -> None:
        try:
            self._open(group)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise UnsupportedSlideError(
                f"its OME-Zarr metadata is damaged ({one_line(error)})"
            ) from error

    def _open(self, group: zarr.Group) -> None:
        attributes: dict[str, Any] = dict(group.attrs)
        multiscale = _multiscale(attributes)
        self._arrays = [_array(group, d["path"]) for d in multiscale["datasets"]]
        axes = self._axes = _axes(multiscale, self._arrays[0].ndim)
        for array in self._arrays:
            _check_array(array, axes)
        scales = _scales(multiscale, axes)
        first = self._arrays[0].shape
        shape = (first[axes.y], first[axes.x])
        own: Mapping[str, Any] = {}
        if isinstance(kept := attributes.get(OWN_ATTRIBUTES), Mapping):
            own = kept
        self.description = Description(
            levels=_levels(self._arrays, axes, scales),
            mpp=_mpp(axes, scales[0]),
            bounds=Region(*own["bounds"]) if "bounds" in own else Region(0, 0, *shape),
            background=tuple(own.get("background", WHITE)),
            vendor=own.get("vendor"),
            objective_power=own.get("objective_power"),
            properties={"ome.version": str(multiscale.get("version", ""))},
        )
        self._metadata = [multiscale, [list(a.shape) for a in self._arrays]]

    def read(self, level: int, y: int, x: int, height: int, width: int) -> Pixels:
        """Pixels of a rectangle wholly inside ``level``."""
        axes = self._axes
        index: list[Any] = [0] * axes.count
        index[axes.y] = slice(y, y + height)
        index[axes.x] = slice(x, x + width)
        index[axes.c] = slice(None)
        # Integers drop the singleton axes; what is left keeps its order.
        pixels = np.asarray(self._arrays[level][tuple(index)])
        left = sorted((axes.y, axes.x, axes.c))
        order = [left.index(a) for a in (axes.y, axes.x, axes.c)]
        pixels = pixels.transpose(order)
        if pixels.shape[-1] == 4:
            return composite(
                pixels[..., :3], pixels[..., 3], self.description.background, premultiplied=False
            )
        return np.ascontiguousarray(pixels)

    def read_associated(self, name: str) -> Pixels:
        """There are none."""
        raise KeyError(name)

    def fingerprint(self) -> str:
        """Digest of the metadata, of the coarsest level's start and of level 0's middle."""
        shape = self.description.levels[0].shape
        last = len(self._arrays) - 1
        places = ((last, self.description.levels[last].shape, 0), (0, shape, 2))
        samples = []
        for level, (rows, columns), part in places:
            height, width = min(rows, SAMPLE_PX), min(columns, SAMPLE_PX)
            y, x = ((rows - height) // part, (columns - width) // part) if part else (0, 0)
            samples.append(self.read(level, y, x, height, width))
        return fingerprint_pyramid(self._metadata, samples)

    def close(self) -> None:
        """Drop the arrays; Zarr keeps no file open."""
        self._arrays = []


def _multiscale(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first multiscale image of 0.5 (below ``ome``) or 0.4 (at the top)."""
    ome = attributes.get("ome", attributes)
    images = ome.get("multiscales") if isinstance(ome, Mapping) else None
    if not images:
        kind = "a plate" if isinstance(ome, Mapping) and "plate" in ome else "no multiscale image"
        raise UnsupportedSlideError(f"its Zarr group holds {kind}: give the image's own group.")
    image: Mapping[str, Any] = images[0]
    return image


def _array(group: zarr.Group, path: str) -> zarr.Array[Any]:
    array = group[path]
    if not isinstance(array, zarr.Array):
        raise UnsupportedSlideError(f"its level {path!r} is not an array")
    return array


def _axes(multiscale: Mapping[str, Any], ndim: int) -> _Axes:
    """Find y, x and c. Versions up to 0.2 have the five axes t c z y x and no names."""
    listed = multiscale.get("axes") or list("tczyx"[-ndim:])
    axes = [a if isinstance(a, Mapping) else {"name": a} for a in listed]
    names = [str(a["name"]).lower() for a in axes]
    if len(names) != ndim or not {"y", "x", "c"} <= set(names):
        raise UnsupportedSlideError(
            f"its axes are {', '.join(names)} over {ndim} dimensions: y, x and c are needed."
        )
    y, x, c = (names.index(n) for n in "yxc")
    return _Axes(y, x, c, (axes[y].get("unit"), axes[x].get("unit")), ndim)


def _check_array(array: zarr.Array[Any], axes: _Axes) -> None:
    """Refuse what is not one plane of 8-bit RGB."""
    channels = array.shape[axes.c]
    supported = "8-bit RGB or RGBA is supported; convert the image to it first"
    if array.dtype != np.uint8:
        raise UnsupportedSlideError(f"its pixels are {array.dtype}: {supported}.")
    if channels not in (3, 4):
        raise UnsupportedSlideError(
            f"it has {channels} channels, as fluorescence or grey images do: {supported}."
        )
    others = [n for i, n in enumerate(array.shape) if i not in (axes.y, axes.x, axes.c)]
    if any(n != 1 for n in others):
        raise UnsupportedSlideError(
            f"it is {array.shape}, more than one plane or time point: extract one first."
        )


def _scales(multiscale: Mapping[str, Any], axes: _Axes) -> list[tuple[float, float] | None]:
    """Each level's (y, x) scale, times the scale of the whole image."""

    def scale(transforms: Sequence[Mapping[str, Any]] | None) -> tuple[float, float] | None:
        for transform in transforms or ():
            if transform.get("type") == "scale" and "scale" in transform:
                values = transform["scale"]
                return float(values[axes.y]), float(values[axes.x])
        return None

    whole = scale(multiscale.get("coordinateTransformations")) or (1.0, 1.0)
    levels = [scale(d.get("coordinateTransformations")) for d in multiscale["datasets"]]
    return [None if lv is None else (lv[0] * whole[0], lv[1] * whole[1]) for lv in levels]


def _levels(
    arrays: Sequence[zarr.Array[Any]],
    axes: _Axes,
    scales: Sequence[tuple[float, float] | None],
) -> tuple[Level, ...]:
    """Downsamples from the scales where they agree with the shapes, else from the shapes."""
    levels = []
    base, first = arrays[0].shape, scales[0]
    for i, (array, scale) in enumerate(zip(arrays, scales, strict=True)):
        shape = array.shape[axes.y], array.shape[axes.x]
        step = (base[axes.y] / shape[0] + base[axes.x] / shape[1]) / 2
        if first and scale and min(first) > 0:
            stated = (scale[0] / first[0] + scale[1] / first[1]) / 2
            # A level of n pixels stands for anything from n - 1/2 to n + 1/2 downsampled ones.
            if abs(stated / step - 1) < max(0.01, 1 / min(shape)):
                step = stated
        tile = array.chunks[axes.y], array.chunks[axes.x]
        levels.append(Level(shape, step if i else 1.0, tile))
    return tuple(levels)


def _mpp(axes: _Axes, scale: tuple[float, float] | None) -> Mpp | None:
    """Scale times unit; without a unit of length the scale means nothing."""
    y_um, x_um = (unit_um(u) for u in axes.units)
    if scale is None or y_um is None or x_um is None:
        return None
    return mpp_from_file(scale[0] * y_um, scale[1] * x_um)

"""Arrays of the store with an epoch axis: entries along t, one written after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import numpy as np
import zarr
from numpy.typing import NDArray

from napari_wsi_xai.training.figures import FIGURES, SlideFigures

__all__ = [
    "MOST_TOP_TILES",
    "Thumbnails",
    "entries",
    "figures_array",
    "part",
    "put",
    "slide_figures",
    "table_array",
    "thumbnail_array",
    "top_array",
]

MOST_TOP_TILES = 10

WHITE = 255

Thumbnails = NDArray[np.uint8]
"""(rank, px, px, 3) RGB of a slide's top tiles, best first; white where there is none."""


def table_array(
    group: zarr.Group, name: str, dtype: str, fill: float, **axes: int
) -> zarr.Array[Any]:
    """An array without entries yet, of axes t and ``axes``, one chunk an entry."""
    return group.create_array(
        name,
        shape=(0, *axes.values()),
        chunks=(1, *axes.values()),
        dtype=dtype,
        fill_value=fill,
        dimension_names=("t", *axes),
    )


def thumbnail_array(group: zarr.Group, slide: str, shape: tuple[int, ...]) -> zarr.Array[Any]:
    """Where a slide's thumbnails are kept; made where it is not there yet."""
    name = f"thumbnails/{part(slide)}"
    if name not in group:
        axes = dict(zip(("rank", "y", "x", "c"), shape, strict=True))
        return table_array(group, name, "uint8", WHITE, **axes)
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def put(array: zarr.Array[Any], t: int, values: NDArray[Any]) -> None:
    """Write entry t, the last: the array ends there, whatever a killed session left beyond."""
    if array.shape[0] != t + 1:
        array.resize((t + 1, *array.shape[1:]))
    array[t] = values


def entries(array: zarr.Array[Any], count: int) -> NDArray[Any]:
    """The first entries; fill values where the array ends before."""
    found = np.full((count, *array.shape[1:]), array.fill_value, dtype=array.dtype)
    there = min(count, array.shape[0])
    found[:there] = array[:there]
    return found


def part(name: str) -> str:
    """A name as a part of a path."""
    quoted = quote(name, safe=" ")
    return quoted if quoted.strip(".") else quoted.replace(".", "%2E")


def figures_array(slides: Iterable[SlideFigures]) -> NDArray[np.float64]:
    """(slide, figure) float64."""
    return np.array([[getattr(one, name) for name in FIGURES] for one in slides], dtype=np.float64)


def top_array(slides: Iterable[SlideFigures]) -> NDArray[np.int32]:
    """(slide, rank, 2) int32 row and column, -1 where there is no such tile."""
    return np.stack([_cells(one.top) for one in slides])


def _cells(top: tuple[tuple[int, int], ...]) -> NDArray[np.int32]:
    cells = np.full((MOST_TOP_TILES, 2), -1, dtype=np.int32)
    if top:
        cells[: len(top)] = top[:MOST_TOP_TILES]
    return cells


def slide_figures(values: Mapping[str, float], cells: NDArray[Any]) -> SlideFigures:
    """Figures by name, and top tiles, as they were stored."""
    known = {name: float(value) for name, value in values.items() if name in FIGURES}
    top = tuple((int(row), int(column)) for row, column in cells if row >= 0)
    return SlideFigures(**known, top=top)

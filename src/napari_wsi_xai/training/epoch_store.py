"""The store of a training run's explanations: maps with an epoch axis, and figures beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from napari_wsi_xai.runs.store_group import (
    KEY,
    StoreGroup,
    clear_unfinished,
    occupied,
    reading,
    writing,
)
from napari_wsi_xai.training.figures import FIGURES, EpochFigures, SlideFigures
from napari_wsi_xai.training.stored_slide import EpochMap, StoredSlide, ome_image

__all__ = ["MOST_TOP_TILES", "EpochMap", "EpochStore", "StoredSlide"]

MOST_TOP_TILES = 10

BEGUN = frozenset(("zarr.json", "figures", "top_tiles", "maps"))


class EpochStore(StoreGroup):
    """Maps and figures of the watched slides, on disk.

    Layout (Zarr v3)::

        maps/<slide>/<method>/<class>  OME-Zarr 0.5 image t, y, x, float32, NaN = no tile
        figures                        (t, slide, figure) float64, NaN = not defined
        top_tiles                      (t, slide, 10, 2) int32 row and column, -1 = none

    The group's attribute ``napari_wsi_xai`` has ``kind`` "epochs", identity, slides, names of
    figures, and in ``epochs`` epoch, step and metrics of every entry along t. An entry is written
    last to ``epochs``: what lies beyond its length was never finished, and is written again.
    """

    SCHEMA = 1
    KIND = "epochs"

    @classmethod
    def create_or_resume(
        cls, path: Path, slides: tuple[StoredSlide, ...], identity: dict[str, Any]
    ) -> EpochStore:
        """Open the store at ``path`` to go on with it, or make it.

        Raises
        ------
        StoreMismatchError
            The store holds results of other slides, classes or another head.
        StoreError
            It cannot be written, or something else is in its place.
        """
        identity = {"watched": {one.name: one.told for one in slides}, **identity}
        if occupied(path, BEGUN):
            store = cls.open(path, mode="r+")
            store.require(identity)
            clear_unfinished(path)
            return store
        with writing(path):
            group = zarr.open_group(LocalStore(path), mode="w")
            store = cls(group, path)
            store._lay_out(len(slides))
            group.attrs[KEY] = {
                "schema": cls.SCHEMA,
                "kind": cls.KIND,
                "identity": identity,
                "slides": [slide.to_dict() for slide in slides],
                "figures": list(FIGURES),
                "epochs": [],
                "stopped_because": None,
            }
        return store

    def _lay_out(self, slides: int) -> None:
        self.group.create_array(
            "figures",
            shape=(0, slides, len(FIGURES)),
            chunks=(1, slides, len(FIGURES)),
            dtype="float64",
            fill_value=np.nan,
            dimension_names=("t", "slide", "figure"),
        )
        self.group.create_array(
            "top_tiles",
            shape=(0, slides, MOST_TOP_TILES, 2),
            chunks=(1, slides, MOST_TOP_TILES, 2),
            dtype="int32",
            fill_value=-1,
            dimension_names=("t", "slide", "rank", "row_column"),
        )

    # -- what is in it ---------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of whole entries along t."""
        return len(self.attributes["epochs"])

    @property
    def slides(self) -> tuple[StoredSlide, ...]:
        """The watched slides."""
        with reading(self.path):
            return tuple(StoredSlide.from_dict(one) for one in self.attributes["slides"])

    @property
    def stopped_because(self) -> str | None:
        """Why a rule stopped the run, or None."""
        why = self.attributes.get("stopped_because")
        return None if why is None else str(why)

    def history(self) -> list[EpochFigures]:
        """Figures of every whole entry, the oldest first."""
        with reading(self.path):
            entries, names = self.attributes["epochs"], [one.name for one in self.slides]
            count, order = len(entries), list(self.attributes["figures"])
            figures = np.asarray(self._array("figures")[:count], dtype=np.float64)
            top = np.asarray(self._array("top_tiles")[:count])
            return [
                EpochFigures(
                    int(entry["epoch"]),
                    int(entry["step"]),
                    dict(entry["metrics"]),
                    {
                        name: _slide_figures(dict(zip(order, row, strict=True)), cells)
                        for name, row, cells in zip(names, figures[t], top[t], strict=True)
                    },
                )
                for t, entry in enumerate(entries)
            ]

    def maps(self, slide: str) -> dict[str, EpochMap]:
        """``"<method>/<class>"`` to the slide's map over all whole entries (t, rows, cols)."""
        with reading(self.path):
            count = len(self)
            return {
                key: EpochMap(np.asarray(array[:count], dtype=np.float32), level)
                for key, array, level in self._stored(slide)
                if array.shape[0] >= count
            }

    def last_maps(self, slide: str) -> dict[str, NDArray[np.float32]]:
        """The slide's maps (rows, cols) of the last whole entry; none before the first."""
        with reading(self.path):
            last = len(self) - 1
            return {
                key: np.asarray(array[last], dtype=np.float32)
                for key, array, _ in self._stored(slide)
                if 0 <= last < array.shape[0]
            }

    def _stored(self, slide: str) -> Iterator[tuple[str, zarr.Array[Any], int]]:
        place = f"maps/{_part(slide)}"
        if place not in self.group:
            return
        for method, classes in sorted(self.group[place].groups()):  # type: ignore[union-attr]
            for label, group in sorted(classes.groups()):
                if "0" in group:  # else a kill cut it short
                    about: Any = group.attrs[KEY]
                    yield f"{method}/{unquote(label)}", group["0"], int(about["level"])

    def _array(self, name: str) -> zarr.Array[Any]:
        array = self.group[name]
        assert isinstance(array, zarr.Array)
        return array

    # -- writing ---------------------------------------------------------------------------

    def append(self, entry: EpochFigures, maps: Mapping[str, Mapping[str, EpochMap]]) -> None:
        """Write one entry: maps and figures first, then the count that makes it whole.

        Parameters
        ----------
        entry
            Its figures, of every watched slide.
        maps
            Slide to ``"<method>/<class>"`` to map (rows, cols).
        """
        t, slides = len(self), self.slides
        with writing(self.path):
            for slide in slides:
                for key, one in maps[slide.name].items():
                    _put(self._map_array(slide, key, one), t, one.values)
            figures = [[getattr(entry.slides[s.name], f) for f in FIGURES] for s in slides]
            _put(self._array("figures"), t, np.array(figures, dtype=np.float64))
            tops = np.stack([_cells(entry.slides[slide.name].top) for slide in slides])
            _put(self._array("top_tiles"), t, tops)
        about = {"epoch": entry.epoch, "step": entry.step, "metrics": entry.metrics}
        self.update_attributes(epochs=[*self.attributes["epochs"], about])

    def _map_array(self, slide: StoredSlide, key: str, one: EpochMap) -> zarr.Array[Any]:
        method, label = key.split("/", 1)
        place = f"maps/{_part(slide.name)}/{method}/{_part(label)}"
        if f"{place}/0" not in self.group:
            group = self.group.require_group(place)
            name = f"{slide.name} {key}"
            transform = slide.grids[one.level].layer_transform()
            ome = ome_image(name, transform, slide.in_micrometres)
            group.attrs.update({"ome": ome, KEY: {"level": one.level}})
            group.create_array(
                "0",
                shape=(0, *one.values.shape),
                chunks=(1, *one.values.shape),
                dtype="float32",
                fill_value=np.nan,
                dimension_names=("t", "y", "x"),
            )
        return self._array(f"{place}/0")

    def keep_until(self, step: int) -> None:
        """Forget entries of later steps: training goes on from ``step``, and makes them anew."""
        entries = self.attributes["epochs"]
        kept = [entry for entry in entries if entry["step"] <= step]
        if len(kept) == len(entries):
            return
        self.update_attributes(epochs=kept, stopped_because=None)
        with writing(self.path):
            arrays = [self._array("figures"), self._array("top_tiles")]
            arrays += [array for one in self.slides for _, array, _ in self._stored(one.name)]
            for array in arrays:
                array.resize((len(kept), *array.shape[1:]))


def _put(array: zarr.Array[Any], t: int, values: NDArray[Any]) -> None:
    """Write entry t, the last: the array ends there, whatever a killed session left beyond."""
    if array.shape[0] != t + 1:
        array.resize((t + 1, *array.shape[1:]))
    array[t] = values


def _part(name: str) -> str:
    """A name as a part of a path."""
    part = quote(name, safe=" ")
    return part if part.strip(".") else part.replace(".", "%2E")


def _cells(top: tuple[tuple[int, int], ...]) -> NDArray[np.int32]:
    cells = np.full((MOST_TOP_TILES, 2), -1, dtype=np.int32)
    if top:
        cells[: len(top)] = top[:MOST_TOP_TILES]
    return cells


def _slide_figures(values: Mapping[str, float], cells: NDArray[Any]) -> SlideFigures:
    known = {name: float(value) for name, value in values.items() if name in FIGURES}
    top = tuple((int(row), int(column)) for row, column in cells if row >= 0)
    return SlideFigures(**known, top=top)

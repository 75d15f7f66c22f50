"""The store of a training run's explanations: maps with an epoch axis, and figures beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

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
from napari_wsi_xai.training.epoch_arrays import (
    MOST_TOP_TILES,
    Thumbnails,
    entries,
    figures_array,
    part,
    put,
    slide_figures,
    table_array,
    thumbnail_array,
    top_array,
)
from napari_wsi_xai.training.figures import FIGURES, EpochFigures
from napari_wsi_xai.training.stored_slide import EpochMap, StoredSlide, ome_image

__all__ = ["MOST_TOP_TILES", "EpochMap", "EpochStore", "StoredSlide"]

BEGUN = frozenset(("zarr.json", "figures", "top_tiles", "maps", "thumbnails"))


class EpochStore(StoreGroup):
    """Maps and figures of the watched slides, on disk.

    Layout (Zarr v3)::

        maps/<slide>/<method>/<class>  OME-Zarr 0.5 image t, y, x, float32, NaN = no tile
        figures                        (t, slide, figure) float64, NaN = not defined
        top_tiles                      (t, slide, 10, 2) int32 row and column, -1 = none
        thumbnails/<slide>             (t, 5, 96, 96, 3) uint8 RGB of the best, white = none

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
        table_array(self.group, "figures", "float64", np.nan, slide=slides, figure=len(FIGURES))
        ranks = {"rank": MOST_TOP_TILES, "row_column": 2}
        table_array(self.group, "top_tiles", "int32", -1, slide=slides, **ranks)

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
            told, names = self.attributes["epochs"], [one.name for one in self.slides]
            count, order = len(told), list(self.attributes["figures"])
            figures = np.asarray(self._array("figures")[:count], dtype=np.float64)
            top = np.asarray(self._array("top_tiles")[:count])
            return [
                EpochFigures(
                    int(entry["epoch"]),
                    int(entry["step"]),
                    dict(entry["metrics"]),
                    {
                        name: slide_figures(dict(zip(order, row, strict=True)), cells)
                        for name, row, cells in zip(names, figures[t], top[t], strict=True)
                    },
                )
                for t, entry in enumerate(told)
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

    def thumbnails(self, slide: str) -> Thumbnails | None:
        """Pictures of the slide's best tiles over all whole entries (t, rank, px, px, 3).

        White where there is none; ``None`` where the slide was never there to be read.
        """
        with reading(self.path):
            place = self._pictures(slide)
            return None if place is None else entries(self._array(place), len(self))

    def _pictures(self, slide: str) -> str | None:
        """Where a slide's thumbnails are."""
        place = f"thumbnails/{part(slide)}"
        return place if place in self.group else None

    def _stored(self, slide: str) -> Iterator[tuple[str, zarr.Array[Any], int]]:
        place = f"maps/{part(slide)}"
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

    def append(
        self,
        entry: EpochFigures,
        maps: Mapping[str, Mapping[str, EpochMap]],
        thumbnails: Mapping[str, Thumbnails] | None = None,
    ) -> None:
        """Write one entry: maps and figures first, then the count that makes it whole.

        Parameters
        ----------
        entry
            Its figures, of every watched slide.
        maps
            Slide to ``"<method>/<class>"`` to map (rows, cols).
        thumbnails
            Slide to pictures of its top tiles, of the slides that have any.
        """
        t, slides = len(self), self.slides
        with writing(self.path):
            for slide in slides:
                for key, one in maps[slide.name].items():
                    put(self._map_array(slide, key, one), t, one.values)
            for name, pictures in (thumbnails or {}).items():
                put(thumbnail_array(self.group, name, pictures.shape), t, pictures)
            figures = [entry.slides[slide.name] for slide in slides]
            put(self._array("figures"), t, figures_array(figures))
            put(self._array("top_tiles"), t, top_array(figures))
        about = {"epoch": entry.epoch, "step": entry.step, "metrics": entry.metrics}
        self.update_attributes(epochs=[*self.attributes["epochs"], about])

    def _map_array(self, slide: StoredSlide, key: str, one: EpochMap) -> zarr.Array[Any]:
        method, label = key.split("/", 1)
        place = f"maps/{part(slide.name)}/{method}/{part(label)}"
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
        there = self.attributes["epochs"]
        kept = [entry for entry in there if entry["step"] <= step]
        if len(kept) == len(there):
            return
        self.update_attributes(epochs=kept, stopped_because=None)
        with writing(self.path):
            arrays = [self._array("figures"), self._array("top_tiles")]
            arrays += [array for one in self.slides for _, array, _ in self._stored(one.name)]
            arrays += [
                self._array(place) for one in self.slides if (place := self._pictures(one.name))
            ]
            for array in arrays:
                array.resize((len(kept), *array.shape[1:]))

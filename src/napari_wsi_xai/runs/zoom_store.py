"""The result store of a run over several magnifications: one ordinary store a magnification."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, MemoryStore

from napari_wsi_xai.runs.store import ResultStore
from napari_wsi_xai.runs.store_group import (
    KEY,
    StoreGroup,
    clear_unfinished,
    occupied,
    writing,
)

__all__ = ["MagnificationStore"]

LEVELS = "magnifications"

BEGUN = frozenset(("zarr.json",))


class MagnificationStore(StoreGroup):
    """Result stores of all magnifications in one group, on disk or in memory.

    Layout (Zarr v3)::

        magnifications/<k>    an ordinary :class:`ResultStore`, 0 the coarsest

    The group's attribute ``napari_wsi_xai`` has ``kind`` "magnifications", identity, provenance,
    the slide's result and, in ``trace``, what was read and opened at every magnification. A finer
    store is made once it is known which of its tiles are to be read; the selection is its
    ``tissue``.
    """

    SCHEMA = 2
    KIND = LEVELS

    @classmethod
    def create_or_resume(
        cls, path: Path | None, identity: dict[str, Any], provenance: dict[str, Any]
    ) -> MagnificationStore:
        """Open the store at ``path`` to go on with it, or make it (in memory for None).

        Raises
        ------
        StoreMismatchError
            The store holds results of another slide, model or grid; says what differs.
        StoreError
            It cannot be written, or something else is in its place.
        """
        if path is not None and occupied(path, BEGUN):
            store = cls.open(path, mode="r+")
            store.require(identity)
            clear_unfinished(path)
            return store
        with writing(path):
            target = MemoryStore() if path is None else LocalStore(path)
            group = zarr.open_group(target, mode="w")
            group.attrs[KEY] = {
                "schema": cls.SCHEMA,
                "kind": cls.KIND,
                "identity": identity,
                **provenance,
            }
        return cls(group, path)

    @property
    def mpps(self) -> tuple[float, ...]:
        """Micrometres per pixel of every magnification, coarse to fine."""
        return tuple(self.attributes["identity"]["mpps"])

    def levels(self, mode: Literal["r", "r+"] = "r") -> list[ResultStore]:
        """The stores that have been begun, coarse to fine."""
        if self.path is None:
            return []
        found = []
        for level in range(len(self.mpps)):
            place = self.path / LEVELS / str(level)
            if not occupied(place, frozenset(("zarr.json", "features", "tissue"))):
                break
            found.append(ResultStore.open(place, mode))
        return found

    def begin_level(
        self,
        level: int,
        identity: dict[str, Any],
        provenance: dict[str, Any],
        selected: NDArray[np.bool_],
        features: int,
    ) -> ResultStore:
        """Make the store of one magnification."""
        with writing(self.path):
            self.group.require_group(LEVELS)
        provenance = {**provenance, "magnification": {"level": level, "of": len(self.mpps)}}
        place = f"{LEVELS}/{level}"
        if self.path is not None:
            return ResultStore.create_or_resume(
                self.path / place, identity, provenance, selected, features
            )
        memory = self.group.store
        assert isinstance(memory, MemoryStore)
        return ResultStore.create_or_resume(
            None, identity, provenance, selected, features, (memory, place)
        )

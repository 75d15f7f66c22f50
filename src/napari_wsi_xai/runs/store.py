"""The result store, a Zarr v3 group: a chunk exists if and only if its block is complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from napari_wsi_xai.geometry import LayerTransform
from napari_wsi_xai.runs.plan import Block, BlockResult
from napari_wsi_xai.runs.store_group import (
    KEY,
    StoreGroup,
    clear_unfinished,
    occupied,
    reading,
    writing,
)

__all__ = ["SCHEMA", "ResultStore"]

SCHEMA = 1

BEGUN = frozenset(("zarr.json", "features", "tissue"))


class ResultStore(StoreGroup):
    """Features, tissue and maps of a run at one magnification, on disk or in memory.

    Layout (Zarr v3)::

        features              (rows, cols, N), one chunk a block, NaN where there is no tile
        tissue                (rows, cols) bool, the selected tiles
        failures/<row>.<col>  attributes of a block with failed tiles: their reasons
        maps/<method>/<class> OME-Zarr 0.5 image, rows x cols float32, NaN = not computed

    The group's attribute ``napari_wsi_xai`` holds schema, identity, provenance and result.
    Chunks are written to a temporary file and renamed, so one that exists is whole.
    """

    SCHEMA = SCHEMA
    KIND = "tiles"

    def __init__(self, group: zarr.Group, path: Path | None) -> None:
        super().__init__(group, path)
        self._features: zarr.Array[Any] | None = None

    # -- making ----------------------------------------------------------------------------

    @classmethod
    def create_or_resume(
        cls,
        path: Path | None,
        identity: dict[str, Any],
        provenance: dict[str, Any],
        selected: NDArray[np.bool_],
        features: int,
        within: tuple[MemoryStore, str] | None = None,
    ) -> ResultStore:
        """Open the store at ``path`` to go on with it, or make it (in memory for None).

        ``within`` is the memory, and the place in it, for one in memory that is part of another.

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
            with reading(path):
                if not np.array_equal(store.tissue, selected):
                    raise ValueError("its tissue is not what it was begun with")
            clear_unfinished(path)
            return store
        with writing(path):
            memory, place = within or (MemoryStore(), "")
            target = memory if path is None else LocalStore(path)
            group = zarr.open_group(target, path="" if path else place, mode="w")
            store = cls(group, path)
            store._lay_out(identity, selected, features)
            # Attributes come last: a store without them was never begun and is made anew.
            group.attrs[KEY] = {"schema": SCHEMA, "identity": identity, **provenance}
        return store

    def _lay_out(
        self, identity: dict[str, Any], selected: NDArray[np.bool_], features: int
    ) -> None:
        block = int(identity["block_tiles"])
        self.group.create_array(
            "features",
            shape=(*selected.shape, features),
            chunks=(block, block, features),
            dtype=identity["feature_dtype"],
            fill_value=np.nan,
            compressors=BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
            dimension_names=("row", "column", "feature"),
            config={"write_empty_chunks": True},
        )
        tissue = self.group.create_array(
            "tissue",
            shape=selected.shape,
            chunks=selected.shape,
            dtype="bool",
            dimension_names=("row", "column"),
        )
        tissue[:] = selected

    # -- features --------------------------------------------------------------------------

    @property
    def features(self) -> zarr.Array[Any]:
        """(rows, cols, N) features."""
        if self._features is None:
            with reading(self.path):
                array = self.group["features"]
            assert isinstance(array, zarr.Array)
            self._features = array.with_config({"write_empty_chunks": True})
        return self._features

    @property
    def tissue(self) -> NDArray[np.bool_]:
        """(rows, cols) bool, the selected tiles."""
        with reading(self.path):
            return np.asarray(self.group["tissue"][:], dtype=bool)  # type: ignore[index]

    def blocks_done(self) -> set[Block]:
        """Blocks whose chunk exists."""

        async def chunks() -> list[str]:
            prefix = f"{self.group.path}/features/c/".lstrip("/")
            found = self.group.store.list_prefix(prefix)
            return [key.removeprefix(prefix) async for key in found]

        parts = [key.split("/") for key in sync(chunks()) if not key.endswith(".partial")]
        return {Block(int(part[0]), int(part[1])) for part in parts if len(part) == 3}

    def has(self, block: Block) -> bool:
        """Whether the block's chunk exists."""
        key = f"{self.group.path}/features/c/{block.row}/{block.col}/0".lstrip("/")
        return bool(sync(self.group.store.exists(key)))

    def read_block(self, block: Block) -> NDArray[np.float32]:
        """Features of one block, (block rows, block cols, N) float32."""
        window, chunk = self._window(block), f"features/c/{block.row}/{block.col}"
        with reading(self.path / chunk if self.path else chunk):
            return np.asarray(self.features[window], dtype=np.float32)

    def write_block(self, result: BlockResult) -> None:
        """Write a block's failures, then its chunk: the chunk is what makes it complete."""
        with writing(self.path):
            name = f"failures/{result.block.row}.{result.block.col}"
            if result.failures:
                reasons = {f"{r},{c}": reason for (r, c), reason in result.failures.items()}
                self.group.require_group(name).attrs["tiles"] = reasons
            elif name in self.group:  # of a session killed before the chunk; they went well now
                del self.group[name]
            self.features[self._window(result.block)] = result.features

    def failures(self) -> dict[tuple[int, int], str]:
        """(row, column) of failed tiles in complete blocks, with the reason."""
        if "failures" not in self.group:
            return {}
        found: dict[tuple[int, int], str] = {}
        done = self.blocks_done()
        for name, block in self.group["failures"].groups():  # type: ignore[union-attr]
            row, col = name.split(".")
            if Block(int(row), int(col)) in done:
                tiles: Any = block.attrs["tiles"]
                for tile, reason in tiles.items():
                    r, c = tile.split(",")
                    found[int(r), int(c)] = str(reason)
        return found

    def _window(self, block: Block) -> tuple[slice, slice]:
        rows, cols = self.features.chunks[:2]
        return (
            slice(block.row * rows, min((block.row + 1) * rows, self.features.shape[0])),
            slice(block.col * cols, min((block.col + 1) * cols, self.features.shape[1])),
        )

    # -- maps ------------------------------------------------------------------------------

    def write_map(
        self,
        name: str,
        values: NDArray[np.float32],
        transform: LayerTransform,
        details: dict[str, Any],
    ) -> None:
        """Write map ``<method>/<class>`` (rows, cols) as an OME-Zarr 0.5 image in micrometres."""
        method, label = name.split("/", 1)
        with writing(self.path):
            group = self.group.require_group(f"maps/{method}/{quote(label, safe=' ')}")
            group.attrs.update({"ome": _ome_image(name, transform), KEY: details})
            if "0" not in group:
                group.create_array(
                    "0",
                    shape=values.shape,
                    chunks=values.shape,
                    dtype="float32",
                    fill_value=np.nan,
                    dimension_names=("y", "x"),
                    config={"write_empty_chunks": True},
                )
            group["0"][:] = values  # type: ignore[index]

    def maps(self) -> dict[str, NDArray[np.float32]]:
        """All stored maps, ``"<method>/<class>"`` to (rows, cols) float32."""
        with reading(self.path):
            return dict(self._stored_maps())

    def _stored_maps(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        if "maps" not in self.group:
            return
        for method, classes in sorted(self.group["maps"].groups()):  # type: ignore[union-attr]
            for label, group in sorted(classes.groups()):
                if "0" in group and group["0"].nchunks_initialized:  # else a kill cut it short
                    yield f"{method}/{unquote(label)}", np.asarray(group["0"][:])


def _ome_image(name: str, transform: LayerTransform) -> dict[str, Any]:
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in ("y", "x")]
    coordinates = [
        {"type": "scale", "scale": list(transform.scale)},
        {"type": "translation", "translation": list(transform.translate)},
    ]
    dataset = {"path": "0", "coordinateTransformations": coordinates}
    return {"version": "0.5", "multiscales": [{"name": name, "axes": axes, "datasets": [dataset]}]}

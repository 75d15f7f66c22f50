"""A run over features that another tool extracted."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.geometry import Mpp
from napari_wsi_xai.runs.features_io import FeatureBag
from napari_wsi_xai.runs.plan import Block, BlockResult
from napari_wsi_xai.runs.run import Run
from napari_wsi_xai.runs.store import ResultStore
from napari_wsi_xai.tiles import TileGrid

if TYPE_CHECKING:
    from napari_wsi_xai.models import MILModel

__all__ = ["grid_of_bag", "run_from_bag"]

BLOCK_TILES = 8


def run_from_bag(
    bag: FeatureBag,
    head: MILModel,
    classes: tuple[str, ...],
    mpp: Mpp,
    out: str | os.PathLike[str] | None = None,
    name: str = "features",
    tile_size_level0: float | None = None,
) -> Run:
    """Run a MIL head over features from elsewhere and keep the maps in a result store.

    Tiles are laid on a regular grid of their own size that starts at the first corner. Tools
    that cut tiles contour by contour leave some off that grid: each of those goes to the nearest
    free cell.

    Parameters
    ----------
    bag
        Descriptors with coordinates.
    head, classes
        The MIL head and its class names.
    mpp
        Micrometres per level-0 pixel, yx.
    out
        Folder of the result store; in memory by default.
    name
        Name of the slide, for layers.
    tile_size_level0
        Edge of a tile in level-0 pixels, where the bag does not say.

    Raises
    ------
    BadArgumentError
        There are no coordinates, the tile size is not known, or the head pools or zooms into
        several magnifications.
    ModelError
        The descriptors do not fit the head.
    """
    _require_head_for(bag, head, name)
    grid, cells = grid_of_bag(bag, mpp, name, tile_size_level0)
    assert bag.coords_level0 is not None
    selected = np.zeros(grid.shape, dtype=bool)
    selected[cells[:, 0], cells[:, 1]] = True
    features = np.full((*grid.shape, bag.features.shape[1]), np.nan, dtype=np.float32)
    features[cells[:, 0], cells[:, 1]] = bag.features
    store = ResultStore.create_or_resume(
        None if out is None else Path(out),
        {
            "slide": _digest(bag.coords_level0),
            "grid": grid.to_dict(),
            "tissue": _digest(selected),
            "encoder": _digest(bag.features),
            "model": _head_digest(head),
            "block_tiles": BLOCK_TILES,
            "feature_dtype": "float32",
        },
        {
            "slide": {"name": name, "source": None, "mpp": list(mpp), "mpp_source": "user"},
            "model": {
                "name": head.architecture,
                "classes": list(classes),
                "architecture": head.architecture,
                "score_kind": head.score_kind,
                "encoder": str(bag.attributes.get("encoder", "imported features")),
            },
        },
        selected,
        bag.features.shape[1],
    )
    _write(store, features, selected)
    run = Run(store, head=head)
    run.update_maps()
    run.save_maps()
    return run


def grid_of_bag(
    bag: FeatureBag, mpp: Mpp, name: str = "features", tile_size_level0: float | None = None
) -> tuple[TileGrid, NDArray[np.int64]]:
    """The grid that the tiles of a bag lie on, and (n, 2) row and column of each.

    Raises
    ------
    BadArgumentError
        There are no coordinates, or the tile size is not known.
    """
    size = tile_size_level0 or bag.tile_size_level0
    if bag.coords_level0 is None or not size:
        missing = "coordinates" if bag.coords_level0 is None else "tile size (patch_size_level0)"
        raise BadArgumentError(f"{name} has no {missing}, so its tiles cannot be placed on a map.")
    cells = _cells(bag.coords_level0, size)
    return _grid(bag, cells, size, mpp), cells


def _require_head_for(bag: FeatureBag, head: MILModel, name: str) -> None:
    """Raise, before anything is written, where the head cannot take the bag."""
    import torch

    if head.num_magnifications > 1 and head.magnification_use != "concat":
        raise BadArgumentError(
            f"the {head.architecture} head takes tiles of {head.num_magnifications} "
            f"magnifications, {name} has those of one: score the slide itself."
        )
    head.check_bag(torch.zeros(1, bag.features.shape[1]))


def _cells(coords_level0: NDArray[np.int64], size: float) -> NDArray[np.int64]:
    """A grid cell of its own for every tile: the nearest one that is still free."""
    exact = (coords_level0 - coords_level0.min(axis=0)) / size
    cells: NDArray[np.int64] = np.floor(exact + 0.5).astype(np.int64)
    _, first = np.unique(cells, axis=0, return_index=True)
    taken = {tuple(cell) for cell in cells[first]}
    for tile in sorted(set(range(len(cells))) - set(first.tolist())):
        cells[tile] = _nearest_free(exact[tile], taken)
        taken.add(tuple(cells[tile]))
    return cells


def _nearest_free(place: NDArray[np.float64], taken: set[tuple[int, ...]]) -> NDArray[np.int64]:
    centre = np.floor(place + 0.5).astype(np.int64)
    reach = 1
    while True:
        steps = np.arange(-reach, reach + 1)
        around = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2) + centre
        free = [cell for cell in around if tuple(cell) not in taken and (cell >= 0).all()]
        if free:
            return min(free, key=lambda cell: float(np.hypot(*(cell - place))))
        reach += 1


def _grid(bag: FeatureBag, cells: NDArray[np.int64], size: float, mpp: Mpp) -> TileGrid:
    assert bag.coords_level0 is not None
    tile_px = int(bag.attributes.get("patch_size", round(size)))
    rows, cols = cells.max(axis=0) + 1
    first = bag.coords_level0.min(axis=0)
    return TileGrid(
        shape=(int(rows), int(cols)),
        tile_px=tile_px,
        mpp=size * float(np.mean(mpp)) / tile_px,
        stride_px=tile_px,
        origin_level0=(int(first[0]), int(first[1])),
        slide_mpp=mpp,
        level=0,
        downsample=1.0,
    )


def _write(store: ResultStore, features: NDArray[np.float32], selected: NDArray[np.bool_]) -> None:
    done = store.blocks_done()
    for row, col in np.unique(np.argwhere(selected) // BLOCK_TILES, axis=0):
        block = Block(int(row), int(col))
        if block not in done:
            rows, cols = (slice(i * BLOCK_TILES, (i + 1) * BLOCK_TILES) for i in (row, col))
            tiles = int(selected[rows, cols].sum())
            store.write_block(BlockResult(block, features[rows, cols], {}, tiles, 0.0, 0.0))


def _digest(array: NDArray[np.generic]) -> str:
    header = f"{array.shape}{array.dtype}".encode()
    return "sha256:" + hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def _head_digest(head: MILModel) -> str:
    digest = hashlib.sha256(repr((head.architecture, head.arguments)).encode())
    for name, tensor in sorted(head.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return "sha256:" + digest.hexdigest()

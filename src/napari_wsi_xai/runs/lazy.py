"""The run's features and tile scores as dask arrays over its blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.runs.plan import Block, RunPlan, encode_block
from napari_wsi_xai.runs.store import ResultStore
from napari_wsi_xai.tiles import TileGrid

if TYPE_CHECKING:
    import dask.array as da

    from napari_wsi_xai.models import MILModel

__all__ = ["lazy_features", "lazy_tile_scores"]


def lazy_features(store: ResultStore, plan: RunPlan | None) -> da.Array:
    """(rows, cols, N) float32; a chunk is read from the store, or encoded and kept there."""
    import dask.array as da

    array = store.features
    sizes = (array.chunks[0], array.chunks[1], array.shape[2])
    chunks = da.core.normalize_chunks(sizes, array.shape, dtype=np.float32)
    return da.map_blocks(
        _block_features,
        dtype=np.float32,
        chunks=chunks,
        meta=np.empty((0, 0, 0), dtype=np.float32),
        source=_Source(store, plan),
    )


def lazy_tile_scores(features: da.Array, head: MILModel, grid: TileGrid) -> da.Array:
    """(rows, cols, K) float32 over lazy features; whole-bag heads need all of them at once."""
    import torch

    if not head.scores_per_tile:
        features = features.rechunk(features.shape)
    with torch.inference_mode():
        corner = torch.zeros(1, 2, dtype=torch.int64)
        columns = head.score_tiles(torch.zeros(1, head.in_features), corner).shape[1]
    return features.map_blocks(
        _block_scores,
        dtype=np.float32,
        chunks=(*features.chunks[:2], (columns,)),
        meta=np.empty((0, 0, 0), dtype=np.float32),
        head=head,
        grid=grid,
        columns=columns,
    )


class _Source:
    """What a lazy block needs, wrapped so that dask neither looks into it nor copies it."""

    def __init__(self, store: ResultStore, plan: RunPlan | None) -> None:
        self.store = store
        self.plan = plan
        self.blocks = frozenset(plan.blocks) if plan else frozenset(store.blocks_done())

    def __dask_tokenize__(self) -> object:
        return id(self), str(self.store.path)


def _block_features(block_info: Any = None, source: _Source | None = None) -> NDArray[np.float32]:
    assert source is not None
    row, col, _ = block_info[None]["chunk-location"]
    block = Block(row, col)
    if source.plan is None or block not in source.blocks or source.store.has(block):
        return source.store.read_block(block)
    result = encode_block(source.plan, block)
    source.store.write_block(result)
    return result.features


def _block_scores(
    features: NDArray[np.float32],
    head: MILModel,
    grid: TileGrid,
    columns: int,
    block_info: Any = None,
) -> NDArray[np.float32]:
    import torch

    (top, _), (left, _), _ = block_info[0]["array-location"]
    scores = np.full((*features.shape[:2], columns), np.nan, dtype=np.float32)
    usable = np.argwhere(np.isfinite(features[..., 0]))
    if len(usable):
        corners = torch.from_numpy(grid.origins_level0(np.add(usable, [top, left])))
        with torch.inference_mode():
            bag = torch.from_numpy(features[usable[:, 0], usable[:, 1]])
            scores[usable[:, 0], usable[:, 1]] = head.score_tiles(bag, corners).numpy()
    return scores

"""A run: the work still to do on a slide, and everything known of it so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import RunError
from napari_wsi_xai.geometry import Region
from napari_wsi_xai.runs.bag import evaluate_bag
from napari_wsi_xai.runs.local import BlockQueue, run_locally
from napari_wsi_xai.runs.maps import maps_from_output
from napari_wsi_xai.runs.plan import Block, RunPlan
from napari_wsi_xai.runs.progress import Progress, ProgressMeter
from napari_wsi_xai.runs.settle import settle_engine
from napari_wsi_xai.runs.slide_run import SlideRun
from napari_wsi_xai.runs.store import ResultStore
from napari_wsi_xai.slides import Slide
from napari_wsi_xai.tiles import TileGrid

if TYPE_CHECKING:
    import dask.array as da

    from napari_wsi_xai.models import Engine, MILModel, MILOutput

__all__ = ["Run"]


class Run(SlideRun):
    """A slide being scored at one magnification, or the stored result of that.

    Attributes
    ----------
    plan
        What is still to be encoded, and how; None for a stored result.
    head
        The MIL head; None for a stored result opened without its model, and for one magnification
        of several.
    maps
        ``"<method>/<class>"`` to (rows, cols) float32, NaN = not computed.
    """

    def __init__(
        self,
        store: ResultStore,
        plan: RunPlan | None = None,
        head: MILModel | None = None,
        slide: Slide | None = None,
        blocks: tuple[Block, ...] | None = None,
    ) -> None:
        super().__init__(store, slide)
        self.store: ResultStore = store
        self.plan = plan
        self.head = head
        self.maps: dict[str, NDArray[np.float32]] = store.maps()
        self.tissue = store.tissue
        self._blocks = blocks
        self._engine: Engine | None = None
        self._queue: BlockQueue | None = None
        self._done = store.blocks_done()

    # -- what it is ------------------------------------------------------------------------

    @cached_property
    def grid(self) -> TileGrid:
        """The tile grid."""
        return TileGrid.from_dict(self.store.attributes["identity"]["grid"])

    @property
    def total(self) -> int:
        """Number of tissue tiles."""
        return int(self.tissue.sum())

    @property
    def done(self) -> int:
        """Number of tissue tiles dealt with so far, here or through the lazy arrays."""
        if self._queue is None:  # while this run works, it alone knows best
            self._done |= self.store.blocks_done()
        return sum(self._tiles_in(block) for block in self._done)

    @property
    def complete(self) -> bool:
        """Whether every block is complete."""
        return self.done == self.total

    @property
    def failures(self) -> dict[tuple[int, int], str]:
        """(row, column) of tiles that could not be used, with the reason."""
        return self.store.failures()

    # -- doing the work --------------------------------------------------------------------

    def __iter__(self) -> Iterator[Progress]:
        if self.plan is None or self.head is None:
            return
        meter = self._begin()
        yield from self._encode(meter)
        if self._cancel.is_set():
            yield meter.now("cancelled")
            return
        yield meter.now("deciding")
        output = self._evaluate()
        self.save_maps()  # first, so that a store with a final result has its maps
        self._record(output)
        yield meter.now("complete" if self.complete else "region complete")

    def encode(self) -> Iterator[Progress]:
        """Encode what is missing, and decide nothing: for one magnification of several."""
        yield from self._encode(self._begin())

    def focus(self, region_level0: Region | None) -> None:
        """See :meth:`SlideRun.focus`."""
        super().focus(region_level0)
        if self._queue is not None:
            self._queue.focus(region_level0)

    def _begin(self) -> ProgressMeter:
        self._cancel.clear()
        self._done |= self.store.blocks_done()
        return self._meter()

    def _encode(self, meter: ProgressMeter) -> Iterator[Progress]:
        if meter.tiles_done == meter.tiles_total:
            return
        if self._engine is None:
            yield meter.now("preparing the model")
            self.prepare()
        assert self.plan is not None
        assert self._engine is not None
        self._queue = BlockQueue(self.plan, self._todo())
        self._queue.focus(self._focus)
        meter.start()
        try:
            results = run_locally(self.plan, self.slide, self._engine, self._queue, self._cancel)
            for result in results:
                self.store.write_block(result)
                self._done.add(result.block)
                meter.add(result)
                yield meter.now("scoring")
        finally:
            self._queue = None

    def prepare(self) -> None:
        """Build the engine, and settle the precision where it is ``auto``."""
        if self.plan is not None and self._engine is None:
            self.plan, self._engine = settle_engine(self.plan, self.store, self.slide)
            self.note = self._engine.note

    def prepare_like(self, other: Run) -> None:
        """Encode with the engine that ``other``, a run of the same encoder, is prepared with."""
        if self.plan is not None and other.plan is not None:
            precision, engine = other.plan.precision, other.plan.engine
            self.plan = replace(self.plan, precision=precision, engine=engine)
            self._engine, self.note = other._engine, other.note
            self.store.update_attributes(engine={"precision": precision, "engine": engine})

    def _todo(self) -> list[Block]:
        assert self.plan is not None
        wanted = self.plan.blocks if self._blocks is None else self._blocks
        return [block for block in wanted if block not in self._done]

    def _meter(self) -> ProgressMeter:
        assert self.plan is not None
        wanted = set(self.plan.blocks if self._blocks is None else self._blocks)
        kept = wanted & self._done
        meter = ProgressMeter(sum(map(self._tiles_in, wanted)), len(wanted))
        meter.keep(sum(map(self._tiles_in, kept)), len(kept), len(self.failures))
        return meter

    def _tiles_in(self, block: Block) -> int:
        size = self.store.features.chunks[0]
        rows, cols = (slice(index * size, (index + 1) * size) for index in (block.row, block.col))
        return int(self.tissue[rows, cols].sum())

    # -- deciding --------------------------------------------------------------------------

    def update_maps(self) -> MILOutput:
        """Run the MIL head on the tiles there are, and lay its scores out on the grid.

        Before :attr:`complete` the outcome is provisional; afterwards it is the same in every
        run, whatever order the blocks were done in.

        Raises
        ------
        RunError
            No tile has features, or the run was opened without its model.
        """
        output = self._evaluate()
        self._record(output)
        return output

    def _evaluate(self) -> MILOutput:
        if self.head is None:
            raise RunError("this run was opened without its model: open_run(path, model=...).")
        indices: list[NDArray[np.int64]] = []
        output = evaluate_bag(self.head, lambda: self.bag_blocks(indices))
        index = np.concatenate(indices)[: len(output.tile_scores)]
        self.maps = maps_from_output(output, index, self.tissue.shape, self.classes)
        return output

    def _record(self, output: MILOutput) -> None:
        """Keep what the head said of the slide."""
        assert self.head is not None
        probabilities = self.head.probabilities(output.logits).tolist()
        self.store.update_attributes(
            result={
                "logits": output.logits.tolist(),
                "probabilities": dict(zip(self.classes, probabilities, strict=True)),
                "predicted": self.classes[int(np.argmax(probabilities))],
                "tiles_used": len(output.tile_scores),
                "tiles_total": self.total,
                "complete": self.complete,
            }
        )

    def save_maps(self) -> None:
        """Write the maps to the store."""
        details = {
            "complete": self.complete,
            "model": self.store.attributes["identity"]["model"],
            "score_kind": self.score_kind,
            "version": 1,
        }
        for name, values in self.maps.items():
            self.store.write_map(name, values, self.grid.layer_transform(), details)

    def bag_blocks(
        self, indices: list[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Features and corners of usable tiles, block by block in the grid's order.

        ``indices`` collects (row, column) of the tiles yielded.
        """
        size = self.store.features.chunks[0]
        for block in sorted(self._done):
            features = self.store.read_block(block)
            usable = np.argwhere(np.isfinite(features[..., 0]))
            if len(usable):
                index = np.add(usable, [block.row * size, block.col * size], dtype=np.int64)
                indices.append(index)
                yield features[usable[:, 0], usable[:, 1]], self.grid.origins_level0(index)

    def descriptors_of(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features of the tiles at ``index`` (n, 2), in its order: (n, N), NaN where none."""
        size = self.store.features.chunks[0]
        found = np.full((len(index), self.store.features.shape[2]), np.nan, dtype=np.float32)
        blocks, which = np.unique(index // size, axis=0, return_inverse=True)
        for number, (row, col) in enumerate(blocks):
            if Block(int(row), int(col)) in self._done:
                here = np.flatnonzero(which.ravel() == number)
                rows, cols = (index[here] - [row * size, col * size]).T
                found[here] = self.store.read_block(Block(int(row), int(col)))[rows, cols]
        return found

    # -- lazy arrays -----------------------------------------------------------------------

    @property
    def features(self) -> da.Array:
        """Features as a lazy dask array (rows, cols, N) float32, one chunk a block.

        Slicing it computes only the blocks asked for; a block already in the store is read, one
        that is not is encoded and kept there. NaN where a tile is not tissue or failed.
        """
        from napari_wsi_xai.runs.lazy import lazy_features

        self.prepare()
        return lazy_features(self.store, self.plan)

    @property
    def tile_scores(self) -> da.Array:
        """Tile scores f_s as a lazy dask array (rows, cols, K) float32 over :attr:`features`.

        Raises
        ------
        RunError
            The run was opened without its model.
        """
        from napari_wsi_xai.runs.lazy import lazy_tile_scores

        if self.head is None:
            raise RunError("tile scores need the model: open_run(path, model=...).")
        return lazy_tile_scores(self.features, self.head, self.grid)

"""A run: the work still to do on a slide, and everything known of it so far."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from napari_wsi_xai.runs.store import ResultStore
from napari_wsi_xai.slides import Slide, open_slide
from napari_wsi_xai.tiles import TileGrid

if TYPE_CHECKING:
    import dask.array as da

    from napari_wsi_xai.models import Engine, MILModel, MILOutput, Model

__all__ = ["Run", "open_run"]


class Run:
    """A slide being scored by a model, or the stored result of that.

    Iterating does the work and yields :class:`Progress`; breaking off, :meth:`cancel` or a crash
    loses at most the blocks under way, and the next iteration goes on from there. Its maps are
    *provisional* until :attr:`complete`.

    Attributes
    ----------
    store
        Where features and maps are kept.
    plan
        What is still to be encoded, and how; None for a stored result.
    head
        The MIL head; None for a stored result opened without its model.
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
        self.store = store
        self.plan = plan
        self.head = head
        self.maps: dict[str, NDArray[np.float32]] = store.maps()
        self.note = ""
        self.tissue = store.tissue
        self._slide = slide
        self._blocks = blocks
        self._cancel = threading.Event()
        self._engine: Engine | None = None
        self._queue: BlockQueue | None = None
        self._focus: Region | None = None
        self._done = store.blocks_done()

    # -- what it is ------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """Folder of the result store; None while it lives in memory."""
        return self.store.path

    @property
    def name(self) -> str:
        """Name of the slide."""
        return str(self.store.attributes["slide"]["name"])

    @cached_property
    def grid(self) -> TileGrid:
        """The tile grid."""
        return TileGrid.from_dict(self.store.attributes["identity"]["grid"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the model, in the order of its logits."""
        return tuple(self.store.attributes["model"]["classes"])

    @property
    def score_kind(self) -> str:
        """What the tile scores are, in words: "attention logit", "class logit"..."""
        return str(self.store.attributes["model"]["score_kind"])

    @property
    def slide(self) -> Slide:
        """The slide, opened when first asked for."""
        if self._slide is None:
            known = self.store.attributes["slide"]
            mpp = tuple(known["mpp"]) if known["mpp_source"] == "user" else None
            self._slide = open_slide(known["source"], mpp=mpp)
        return self._slide

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

    @property
    def result(self) -> dict[str, Any] | None:
        """What the MIL head said of the tiles done so far, as stored; None before that.

        Keys: ``logits``, ``probabilities`` (class to 0..1), ``predicted``, ``tiles_used``,
        ``tiles_total``, ``complete``.
        """
        return self.store.attributes.get("result")

    @property
    def probabilities(self) -> dict[str, float]:
        """Slide-level probability of each class; empty before the first result."""
        return dict(self.result["probabilities"]) if self.result else {}

    @property
    def predicted(self) -> str | None:
        """The class with the highest probability."""
        return str(self.result["predicted"]) if self.result else None

    # -- doing the work --------------------------------------------------------------------

    def __iter__(self) -> Iterator[Progress]:
        if self.plan is None or self.head is None:
            return
        self._cancel.clear()
        self._done |= self.store.blocks_done()
        meter = self._meter()
        if meter.tiles_done < meter.tiles_total:
            yield meter.now("preparing the model")
            self.prepare()
            yield from self._encode(meter)
        if self._cancel.is_set():
            yield meter.now("cancelled")
            return
        yield meter.now("deciding")
        self.update_maps()
        self.save_maps()
        yield meter.now("complete" if self.complete else "region complete")

    def compute(self) -> Run:
        """Do all the work; returns itself."""
        for _ in self:
            pass
        return self

    def cancel(self) -> None:
        """Stop after the forward pass under way; what is complete is kept. Any thread may call."""
        self._cancel.set()

    def focus(self, region_level0: Region | None) -> None:
        """Do the blocks nearest to this rectangle first. Any thread may call, at any time."""
        self._focus = region_level0
        if self._queue is not None:
            self._queue.focus(region_level0)

    def _encode(self, meter: ProgressMeter) -> Iterator[Progress]:
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
        if self.head is None:
            raise RunError("this run was opened without its model: open_run(path, model=...).")
        indices: list[NDArray[np.int64]] = []
        output = evaluate_bag(self.head, lambda: self.bag_blocks(indices))
        index = np.concatenate(indices)[: len(output.tile_scores)]
        self.maps = maps_from_output(output, index, self.tissue.shape, self.classes)
        probabilities = self.head.probabilities(output.logits).tolist()
        self.store.update_attributes(
            result={
                "logits": output.logits.tolist(),
                "probabilities": dict(zip(self.classes, probabilities, strict=True)),
                "predicted": self.classes[int(np.argmax(probabilities))],
                "tiles_used": len(index),
                "tiles_total": self.total,
                "complete": self.complete,
            }
        )
        return output

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


def open_run(path: Path | str, model: Model | Path | str | None = None) -> Run:
    """Open a result store.

    Parameters
    ----------
    path
        The ``.wsixai.zarr`` folder.
    model
        The model it was made with, to go on with it or to run its MIL head again.

    Raises
    ------
    StoreError
        There is no readable result store.
    StoreMismatchError
        It was made with another model.
    """
    from napari_wsi_xai.models import Model, load_model

    store = ResultStore.open(path, mode="r" if model is None else "r+")
    if model is None:
        return Run(store)
    bundle = model if isinstance(model, Model) else load_model(model)
    store.require({"model": bundle.content_hash, "encoder": bundle.encoder.content_hash})
    return Run(store, head=bundle.mil)

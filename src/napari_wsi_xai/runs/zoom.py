"""A run over several magnifications: everything coarsely, and finer what the head looks into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_wsi_xai.errors import RunError
from napari_wsi_xai.geometry import Region
from napari_wsi_xai.runs.progress import Progress, ProgressMeter
from napari_wsi_xai.runs.run import Run
from napari_wsi_xai.runs.slide_run import SlideRun
from napari_wsi_xai.runs.trace import LevelTrace, ZoomTrace
from napari_wsi_xai.runs.zoom_decide import Decision, decide, tiles_to_open
from napari_wsi_xai.runs.zoom_plan import ZoomPlan
from napari_wsi_xai.runs.zoom_store import MagnificationStore
from napari_wsi_xai.slides import Slide
from napari_wsi_xai.tiles import mpp_ratios

if TYPE_CHECKING:
    from napari_wsi_xai.models import MILModel, MILOutput

__all__ = ["ZoomRun"]


class ZoomRun(SlideRun):
    """A slide being scored at several magnifications, or the stored result of that.

    Every magnification is a :class:`Run` of its own, coarse to fine. A finer one is begun when it
    is known which of its tiles are to be read: children of the tiles that the head looks into, or
    all. As soon as a magnification is complete its maps are there.

    Attributes
    ----------
    levels
        The runs begun so far, coarse to fine; their maps lie on grids of their own.
    mpps
        Micrometres per pixel of every magnification, coarse to fine.
    plan
        What is to be read, and how; None for a stored result.
    head
        The MIL head; None for a stored result opened without its model.
    """

    def __init__(
        self,
        store: MagnificationStore,
        plan: ZoomPlan | None = None,
        head: MILModel | None = None,
        slide: Slide | None = None,
    ) -> None:
        super().__init__(store, slide)
        self.store: MagnificationStore = store
        self.plan = plan
        self.head = head
        self.mpps = store.mpps
        self._ratios = mpp_ratios(self.mpps)
        self._decision: Decision | None = None
        self._last: Progress | None = None
        if plan is None:
            self.levels = [Run(level, slide=slide) for level in store.levels()]
            return
        self.levels = plan.resume(store)
        while not self.levels or (plan.exhaustive and len(self.levels) < len(self.mpps)):
            self._begin_next()

    # -- what it is ------------------------------------------------------------------------

    @property
    def exhaustive(self) -> bool:
        """Whether every tile of every magnification is read."""
        return bool(self.store.attributes["identity"]["exhaustive"])

    @property
    def total(self) -> int:
        """Most tiles that are to be read; exact once the finest magnification has begun."""
        return sum(level.total for level in self.levels) + self._unknown_after(len(self.levels) - 1)

    @property
    def done(self) -> int:
        """Number of tiles dealt with so far, at all magnifications."""
        return sum(level.done for level in self.levels)

    @property
    def complete(self) -> bool:
        """Whether every magnification has begun and is complete."""
        return len(self.levels) == len(self.mpps) and all(level.complete for level in self.levels)

    @property
    def failures(self) -> dict[tuple[int, int, int], str]:
        """(magnification from 0, row, column) of tiles that could not be used, with the reason."""
        return {
            (number, *tile): reason
            for number, level in enumerate(self.levels)
            for tile, reason in level.failures.items()
        }

    @property
    def trace(self) -> ZoomTrace:
        """What has been read, opened and left alone at every magnification."""
        stored = self.store.attributes.get("trace")
        if stored is not None:
            return ZoomTrace.from_dict(stored)
        levels = tuple(self._trace_of(number) for number in range(len(self.mpps)))
        left_out = self._decision.left_out if self._decision else 0
        outside = float(self.store.attributes.get("tissue_left_out", 0.0))
        return ZoomTrace(levels, self.exhaustive, left_out, outside)

    def _trace_of(self, number: int) -> LevelTrace:
        coarsest = self.levels[0].total if self.levels else 0
        tiles = coarsest * prod(self._ratios[:number]) ** 2
        if number >= len(self.levels):
            return LevelTrace(self.mpps[number], tiles)
        level, told = self.levels[number], self._decision
        known = told is not None and number < len(told.looked)
        return LevelTrace(
            self.mpps[number],
            tiles,
            read=level.done,
            failed=len(level.failures),
            looked=told.looked[number] if told and known else 0,
            opened=told.opened[number] if told and known else 0,
            skipped=tiles - level.total,
        )

    # -- doing the work --------------------------------------------------------------------

    def __iter__(self) -> Iterator[Progress]:
        if self.plan is None or self.head is None:
            return
        self._cancel.clear()
        for number in range(len(self.mpps)):
            if number == len(self.levels):
                self._begin_next()
            yield from self._encode(number)
            if self._cancel.is_set():
                yield self._now(number, "cancelled")
                return
            self.store.update_attributes(engine=self.levels[0].store.attributes["engine"])
            if number + 1 < len(self.mpps):
                self._evaluate()
                self.levels[number].save_maps()
                yield self._now(number, f"all tiles at {self.mpps[number]:g} um/px done")
        yield self._now(number, "deciding")
        decision = self._evaluate()
        self.save_maps()
        self._record(decision)
        yield self._now(number, "complete")

    def cancel(self) -> None:
        """See :meth:`SlideRun.cancel`."""
        super().cancel()
        for level in list(self.levels):
            level.cancel()

    def focus(self, region_level0: Region | None) -> None:
        """See :meth:`SlideRun.focus`; it holds for every magnification."""
        super().focus(region_level0)
        for level in list(self.levels):
            level.focus(region_level0)

    def _begin_next(self) -> None:
        """Begin the next magnification with the tiles that are to be read of it."""
        assert self.plan is not None
        number = len(self.levels)
        if number == 0:
            selected = self.plan.selected
        else:
            last = self.levels[-1]
            whole = last.grid.indices(last.tissue)
            opened = (
                whole
                if self.plan.exhaustive
                else tiles_to_open(self.plan.head, self.levels, self._ratios)
            )
            selected = self.plan.children(number - 1, opened)
        level = self.plan.begin(self.store, number, selected)
        level.focus(self._focus)
        self.levels.append(level)

    def _encode(self, number: int) -> Iterator[Progress]:
        level = self.levels[number]
        if number and not level.complete:
            # One engine for all: what the coarsest tiles have proved is good for the finer ones.
            self.levels[0].prepare()
            level.prepare_like(self.levels[0])
        for step in level.encode():
            self.note = self.levels[0].note
            if self._cancel.is_set():  # asked for while this magnification was being begun
                level.cancel()
            self._last = self._placed(step, number)
            yield self._last

    # -- telling ---------------------------------------------------------------------------

    def _placed(self, step: Progress, number: int) -> Progress:
        """Progress of one magnification, with its place among the others."""
        ahead = self._left_after(number)
        left = step.tiles_total - step.tiles_done + ahead
        return replace(
            step,
            level=number,
            levels=len(self.mpps),
            mpp=self.mpps[number],
            tiles_ahead=ahead,
            eta_s=None if step.tiles_per_s is None else left / step.tiles_per_s,
        )

    def _now(self, number: int, message: str) -> Progress:
        if self._last is None or self._last.level != number:
            level = self.levels[number]
            blocks = len(level.plan.blocks) if level.plan else 0
            meter = ProgressMeter(level.total, blocks)
            meter.keep(level.done, len(level.store.blocks_done()), len(level.failures))
            self._last = self._placed(meter.now(message), number)
        left = self._left_after(number)
        return replace(self._last, message=message, tiles_ahead=left)

    def _left_after(self, number: int) -> int:
        """Most tiles that are still to be read at magnifications finer than this one."""
        begun = sum(level.total - level.done for level in self.levels[number + 1 :])
        return begun + self._unknown_after(len(self.levels) - 1)

    def _unknown_after(self, number: int) -> int:
        """Most tiles of magnifications that have not begun, ``number`` being the last that has."""
        if self.head is None or not 0 <= number < len(self.mpps) - 1:
            return 0
        most = self.head.arguments.get("k_sample")
        count, tiles = self.levels[number].total, 0
        for ratio in self._ratios[number:]:
            count = (count if most is None else min(int(most), count)) * ratio**2
            tiles += count
        return tiles

    # -- deciding --------------------------------------------------------------------------

    def update_maps(self) -> MILOutput | None:
        """Run the MIL head on the tiles there are, and lay maps out on every grid.

        Returns
        -------
        MILOutput or None
            None while the head cannot decide: one that zooms needs all it looks into.

        Raises
        ------
        RunError
            No tile of a magnification could be used, or the run was opened without its model.
        """
        decision = self._evaluate()
        self._record(decision)
        return decision.output

    def save_maps(self) -> None:
        """Write the maps of every magnification to its store."""
        for level in self.levels:
            level.save_maps()

    def _evaluate(self) -> Decision:
        if self.head is None:
            raise RunError("this run was opened without its model: open_run(path, model=...).")
        decision = decide(self.head, self.levels, self._ratios, self.classes)
        for level, maps in zip(self.levels, decision.maps, strict=False):
            level.maps = maps
        self._decision = decision
        return decision

    def _record(self, decision: Decision) -> None:
        """Keep what the head said; the account of the tiles once nothing changes it any more."""
        if decision.output is None:
            return
        assert self.head is not None
        logits = decision.output.logits
        probabilities = self.head.probabilities(logits).tolist()
        result: dict[str, Any] = {
            "logits": logits.tolist(),
            "probabilities": dict(zip(self.classes, probabilities, strict=True)),
            "predicted": self.classes[int(np.argmax(probabilities))],
            "tiles_used": sum(decision.looked),
            "tiles_total": self.total,
            "complete": self.complete,
        }
        # In one write: whoever finds a result that is complete finds the account with it.
        trace = {"trace": self.trace.to_dict()} if self.complete else {}
        self.store.update_attributes(result=result, **trace)

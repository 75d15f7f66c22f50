"""Which tiles of every magnification a run reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.runs.planning import RunInputs, require_settled
from napari_wsi_xai.runs.run import Run
from napari_wsi_xai.runs.store import ResultStore
from napari_wsi_xai.runs.zoom_store import MagnificationStore
from napari_wsi_xai.tiles import TileGrid, children_of

if TYPE_CHECKING:
    from napari_wsi_xai.models import MILModel

__all__ = ["ZoomPlan"]


@dataclass(frozen=True, eq=False)
class ZoomPlan:
    """Everything a run over several magnifications does that does not depend on its results.

    Attributes
    ----------
    inputs
        Slide, model and options.
    grids
        Nested tile grids, coarse to fine.
    selected
        The coarsest tiles that hold tissue, (rows, cols) bool.
    exhaustive
        Read every descendant of these; else those only that the head looks into.
    """

    inputs: RunInputs
    grids: tuple[TileGrid, ...]
    selected: NDArray[np.bool_] = field(repr=False)
    exhaustive: bool

    @property
    def head(self) -> MILModel:
        """The MIL head."""
        return self.inputs.model.mil

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree for results to live in one store."""
        return {
            **self.inputs.identity(self.grids[0], self.selected),
            "mpps": [grid.mpp for grid in self.grids],
            "exhaustive": self.exhaustive,
        }

    def children(self, level: int, opened: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Selection on the grid after ``level``: what lies in its tiles ``opened`` (n, 2)."""
        coarse, fine = self.grids[level : level + 2]
        selected = np.zeros(fine.shape, dtype=bool)
        rows, cols = children_of(opened, fine.shape[0] // coarse.shape[0]).T
        selected[rows, cols] = True
        return selected

    def begin(self, store: MagnificationStore, level: int, selected: NDArray[np.bool_]) -> Run:
        """Make the store of one magnification; its run reads the ``selected`` tiles."""
        begun = store.begin_level(
            level,
            self.inputs.identity(self.grids[level], selected),
            self.inputs.provenance(),
            selected,
            self.inputs.model.encoder.dim,
        )
        return self._run(begun, level)

    def resume(self, store: MagnificationStore) -> list[Run]:
        """Runs over what an earlier session has begun."""
        begun = store.levels("r+")
        for level, one in enumerate(begun):  # its tissue says what was opened, so it must be whole
            one.require(self.inputs.identity(self.grids[level], one.tissue))
        return [self._run(one, level) for level, one in enumerate(begun)]

    def _run(self, store: ResultStore, level: int) -> Run:
        require_settled(store, self.inputs.options)
        plan = self.inputs.plan(self.grids[level], store.tissue)
        return Run(store, plan, slide=self.inputs.slide)

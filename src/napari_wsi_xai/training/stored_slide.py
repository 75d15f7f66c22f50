"""What the store with an epoch axis knows of a slide and of each of its maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.geometry import LayerTransform
from napari_wsi_xai.tiles import TileGrid

__all__ = ["EpochMap", "StoredSlide", "ome_image"]


@dataclass(frozen=True)
class StoredSlide:
    """A watched slide, as far as its maps need it.

    Attributes
    ----------
    name
        Of the slide.
    label
        Its class, an index.
    grids
        Where its tiles lie, one grid a magnification, coarse to fine.
    source
        Path or URL of the slide; None where it is not known.
    in_micrometres
        Whether the grids' ``slide_mpp`` is true; else level-0 pixels stand for micrometres.
    mpp_stated
        Whether the micrometres per pixel were stated by the user, not by the file.
    """

    name: str
    label: int
    grids: tuple[TileGrid, ...]
    source: str | None = None
    in_micrometres: bool = True
    mpp_stated: bool = False

    @property
    def told(self) -> str:
        """What must stay as it is while a run goes on, in words."""
        grids = (
            f"{grid.shape[0]} x {grid.shape[1]} tiles of {grid.tile_px * grid.mpp:g} um"
            f" from {grid.origin_level0}"
            for grid in self.grids
        )
        return f"label {self.label}, {', '.join(grids)}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"grids": [grid.to_dict() for grid in self.grids]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StoredSlide:
        """The slide of :meth:`to_dict`."""
        grids = tuple(TileGrid.from_dict(grid) for grid in values["grids"])
        return cls(**{**values, "grids": grids})


@dataclass(frozen=True, eq=False)
class EpochMap:
    """One map of a slide: ``values`` (rows, cols), or (t, rows, cols) over the epochs.

    ``level`` says which of the slide's grids its pixels are tiles of.
    """

    values: NDArray[np.float32]
    level: int = 0


def ome_image(name: str, transform: LayerTransform, in_micrometres: bool) -> dict[str, Any]:
    """Metadata of an image t, y, x; t counts entries and has no unit."""
    unit = {"unit": "micrometer"} if in_micrometres else {}
    space = [{"name": axis, "type": "space", **unit} for axis in ("y", "x")]
    coordinates = [
        {"type": "scale", "scale": [1.0, *transform.scale]},
        {"type": "translation", "translation": [0.0, *transform.translate]},
    ]
    dataset = {"path": "0", "coordinateTransformations": coordinates}
    axes = [{"name": "t", "type": "time"}, *space]
    return {"version": "0.5", "multiscales": [{"name": name, "axes": axes, "datasets": [dataset]}]}

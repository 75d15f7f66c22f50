"""What one layer shows: a map with its colours, or frames around tiles. No viewer needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.viewer.map_styles import MapStyle
from napari_wsi_xai.viewer.slide_layers import METADATA_KEY, LayerData, Placement
from napari_wsi_xai.viewer.snapshot import Features, Labels

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.utils.colormaps import LabelColormap

    from napari_wsi_xai.tiles import TileGrid

__all__ = [
    "FRAME_KINDS",
    "MAP_KINDS",
    "OPENED_TILES",
    "TOP_TILES",
    "FramesPicture",
    "MapPicture",
    "Picture",
]

OPACITY = 0.7

TOP_TILES, OPENED_TILES = "top tiles", "opened tiles"

FRAME_KINDS = frozenset((TOP_TILES, OPENED_TILES))
"""``kind`` of the layers that frame tiles ..."""

MAP_KINDS = FRAME_KINDS | {"map"}
"""... and of all that show a run."""


@dataclass(frozen=True, eq=False)
class MapPicture:
    """A map, one pixel a tile.

    Attributes
    ----------
    key
        Tells the run's layers apart.
    name
        Of the layer.
    values
        (rows, cols) float32, NaN where nothing was computed.
    style
        Its colours.
    grid
        Where its tiles lie.
    about
        What ``layer.metadata["napari_wsi_xai"]`` says.
    visible
        Whether it is shown at first.
    """

    key: str
    name: str
    values: NDArray[np.float32]
    style: MapStyle
    grid: TileGrid
    about: dict[str, Any]
    visible: bool = True

    def layer_data(self, placement: Placement) -> LayerData:
        """Layer data tuple."""
        keywords = {
            "name": self.name,
            "colormap": self.style.colormap,
            "contrast_limits": self.style.limits,
            "opacity": OPACITY,
            "interpolation2d": "nearest",
            "blending": "translucent_no_depth",
            "visible": self.visible,
            "metadata": {METADATA_KEY: self.about},
            **placement.of(self.grid.layer_transform(), self.grid.slide_mpp),
        }
        return self.values.copy(), keywords, "image"

    def update(self, layer: Layer) -> None:
        """Write the values into a layer, in place.

        Contrast limits follow the values as long as nobody has moved them by hand.
        """
        before = layer.metadata[METADATA_KEY]
        follows = np.allclose(layer.contrast_limits, before["limits"], rtol=1e-5, atol=1e-12)
        layer.data[...] = self.values
        if follows:
            layer.contrast_limits_range = self.style.limits
            layer.contrast_limits = self.style.limits
        if self.about["colours"].split(",")[0] != before["colours"].split(",")[0]:
            layer.colormap = self.style.colormap
        kept = {} if follows else {"limits": before["limits"]}
        layer.metadata[METADATA_KEY] = self.about | kept
        layer.refresh()


@dataclass(frozen=True, eq=False)
class FramesPicture:
    """Frames around tiles, with a table that says which tiles these are.

    Attributes
    ----------
    key, name, grid, about
        As in :class:`MapPicture`.
    labels
        (rows * parts, cols * parts), 0 where there is no frame.
    features
        The table, one row a label.
    parts
        Label pixels per tile edge.
    colormap
        Colours of the labels.
    """

    key: str
    name: str
    labels: Labels
    features: Features
    parts: int
    grid: TileGrid
    about: dict[str, Any]
    colormap: LabelColormap

    def layer_data(self, placement: Placement) -> LayerData:
        """Layer data tuple."""
        where = placement.of(self.grid.layer_transform(), self.grid.slide_mpp)
        scale, translate = np.asarray(where["scale"]), np.asarray(where["translate"])
        keywords = {
            "name": self.name,
            "features": self.features,
            "colormap": self.colormap,
            "opacity": 1.0,
            "metadata": {METADATA_KEY: self.about},
            **where,
            "scale": tuple(scale / self.parts),
            "translate": tuple(translate - scale / 2 + scale / self.parts / 2),
        }
        return self.labels.copy(), keywords, "labels"

    def update(self, layer: Layer) -> None:
        """Write labels and table into a layer, in place."""
        if layer.data.dtype != self.labels.dtype:
            layer.data = self.labels.copy()
        elif not np.array_equal(layer.data, self.labels):
            layer.data[...] = self.labels
            layer.refresh()
        layer.features = self.features
        layer.metadata[METADATA_KEY] = self.about


Picture = MapPicture | FramesPicture

"""Explanations of a training run as layers: maps and top tiles, with the epoch as a slider."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import SlideError
from napari_wsi_xai.viewer.epoch_column import EPOCH_TILES, column_layer_data, column_of
from napari_wsi_xai.viewer.epoch_words import EPOCH_MAP, follow_epochs
from napari_wsi_xai.viewer.map_styles import map_name, map_style
from napari_wsi_xai.viewer.pictures import OPACITY
from napari_wsi_xai.viewer.slide_layers import (
    METADATA_KEY,
    LayerData,
    Placement,
    find_slide_layer,
    placement_on,
    slide_layer_data,
)

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Layer

    from napari_wsi_xai.training.epoch_arrays import Thumbnails
    from napari_wsi_xai.training.epoch_store import EpochMap, EpochStore, StoredSlide
    from napari_wsi_xai.training.figures import EpochFigures

__all__ = [
    "EPOCH_MAP",
    "EPOCH_TILES",
    "add_epoch_layers",
    "epoch_layer_data",
    "update_epoch_layers",
]

Find = Callable[[str], "Layer | None"]
Tell = Callable[[str], object]


def epoch_layer_data(
    store: EpochStore, find: Find | None = None, tell: Tell | None = None
) -> list[LayerData]:
    """Layer data tuples of a store with an epoch axis, bottom to top.

    Of every watched slide the slide itself, where it opens and is not shown yet, a column of its
    top tiles on its right, then a layer (epoch, y, x) a map. The first slide with its attention
    (else its last tile scores) is visible and on top; the others wait hidden, as all slides begin
    at the same place.

    Parameters
    ----------
    store
        The store; entries that are not whole yet are left out.
    find
        Gives the layer that shows a slide already, by its path.
    tell
        Takes a sentence about a slide that does not open.
    """
    layers: list[LayerData] = []
    history = store.history()
    for number, slide in reversed([*enumerate(store.slides)]):
        shown = find(slide.source) if find and slide.source else None
        opened = [] if shown else _slide(slide, tell, visible=number == 0)
        layers += opened
        watched = _Watched(store, slide, history, _placement(slide, shown))
        pictures = store.thumbnails(slide.name)
        if pictures is not None and len(pictures):
            data = shown.data if shown else opened[0][0] if opened else None
            layers.append(watched.column(pictures, _shape(slide, data), visible=number == 0))
        maps = store.maps(slide.name)
        first = _first_shown(maps)
        for key in sorted(maps, key=lambda key: (key == first, not key.startswith("attention"))):
            if len(maps[key].values):
                layers.append(watched.image(key, maps[key], number == 0 and key == first))
    return layers


def add_epoch_layers(viewer: napari.viewer.Viewer, store: EpochStore) -> list[Layer]:
    """Add a store's slides and maps to a viewer, over the slides that it shows already."""
    from napari.layers import Layer as LayerType

    follow_epochs(viewer)
    data = epoch_layer_data(store, lambda source: find_slide_layer(viewer.layers, source))
    return [viewer.add_layer(LayerType.create(*one)) for one in data]


def update_epoch_layers(layers: list[Layer], store: EpochStore) -> None:
    """Show the epochs that were added since, while a training goes on; on the main thread.

    Parameters
    ----------
    layers
        Of :func:`add_epoch_layers`; layers of other things are left alone.
    store
        The same store, opened again.
    """
    history = store.history()
    for slide in store.slides:
        watched = _Watched(store, slide, history, _placement(slide, None))
        maps, pictures = store.maps(slide.name), store.thumbnails(slide.name)
        for layer in layers:
            about = layer.metadata.get(METADATA_KEY, {})
            if (about.get("store"), about.get("slide")) != (str(store.path), slide.name):
                continue
            if about["kind"] == EPOCH_TILES and pictures is not None:
                layer.metadata[METADATA_KEY] = about | watched.entries
                layer.data = column_of(pictures)
            elif about["kind"] == EPOCH_MAP and about["key"] in maps:
                layer.metadata[METADATA_KEY] = about | watched.entries
                _update(layer, maps[about["key"]].values)


def _update(layer: Layer, values: NDArray[np.float32]) -> None:
    """New values, with limits that follow them unless somebody has moved them by hand."""
    about = layer.metadata[METADATA_KEY]
    style = map_style(about["key"], values)
    follows = np.allclose(layer.contrast_limits, about["limits"], rtol=1e-5, atol=1e-12)
    layer.data = values
    if follows:
        layer.contrast_limits_range = layer.contrast_limits = style.limits
        layer.metadata[METADATA_KEY] = about | {"limits": style.limits}


def _slide(slide: StoredSlide, tell: Tell | None, visible: bool) -> list[LayerData]:
    from napari_wsi_xai.slides import open_slide

    if slide.source is None:
        return []
    stated = slide.grids[-1].slide_mpp if slide.mpp_stated else None
    try:
        data, keywords, kind = slide_layer_data(open_slide(slide.source, mpp=stated))
    except SlideError as error:
        if tell is not None:
            tell(f"The maps of {slide.name} open without their slide: {error}")
        return []
    return [(data, keywords | {"visible": visible}, kind)]


def _placement(slide: StoredSlide, shown: Layer | None) -> Placement:
    if shown is None and not slide.in_micrometres:
        return Placement(slide.grids[-1].slide_mpp, units=("pixel", "pixel"))
    return placement_on(shown, slide.grids[-1].slide_mpp)


def _first_shown(maps: dict[str, EpochMap]) -> str | None:
    attention = [key for key in maps if key.startswith("attention/")]
    # The finest magnification, and the last class, which by custom is the one looked for.
    best = sorted(attention or maps, key=lambda key: maps[key].level)
    return best[-1] if best else None


def _shape(slide: StoredSlide, data: Any) -> tuple[int, int]:
    """Size of the slide in level-0 pixels: that of its layer's data, else as far as tiles reach."""
    if data is None:
        region = slide.grids[-1].region_of(
            (0, slide.grids[-1].shape[0]), (0, slide.grids[-1].shape[1])
        )
        return region.y + region.height, region.x + region.width
    level0 = data if hasattr(data, "shape") else data[0]
    return int(level0.shape[0]), int(level0.shape[1])


@dataclass(frozen=True)
class _Watched:
    """A watched slide of a store, and where it lies in the world."""

    store: EpochStore
    slide: StoredSlide
    history: list[EpochFigures]
    placement: Placement

    def image(self, key: str, one: EpochMap, visible: bool) -> LayerData:
        """A map with its epochs."""
        grid = self.slide.grids[one.level]
        style = map_style(key, one.values)
        where = self.placement.of(grid.layer_transform(), grid.slide_mpp)
        about = {
            "kind": EPOCH_MAP,
            "key": key,
            "grid": grid.to_dict(),
            "limits": style.limits,
            "colours": style.words,
        }
        keywords = {
            "name": f"{map_name(self.slide.name, key)} · {self._axis}s",
            "colormap": style.colormap,
            "contrast_limits": style.limits,
            "opacity": OPACITY,
            "interpolation2d": "nearest",
            "blending": "translucent_no_depth",
            "visible": visible,
            # Epochs count from 1. They have no unit, which napari calls pixel.
            "scale": (1.0, *where["scale"]),
            "translate": (1.0, *where["translate"]),
            "units": ("pixel", *where["units"]),
            "axis_labels": (self._axis, *where["axis_labels"]),
            "metadata": {METADATA_KEY: about | self._of_slide | self.entries},
        }
        return one.values, keywords, "image"

    def column(self, pictures: Thumbnails, shape: tuple[int, int], visible: bool) -> LayerData:
        """The top tiles with their epochs."""
        label = self._of_slide["label"]
        keywords = {
            "name": f"{self.slide.name} · top tiles · {label} · {self._axis}s",
            "visible": visible,
            "axis": self._axis,
            "about": {"key": "top tiles"} | self._of_slide | self.entries,
        }
        return column_layer_data(pictures, self.placement, shape, keywords)

    @property
    def _axis(self) -> str:
        """What an entry is called."""
        return "epoch" if self.store.attributes["identity"].get("every") == "epoch" else "check"

    @property
    def _of_slide(self) -> dict[str, Any]:
        classes = dict(enumerate(self.store.attributes["identity"].get("classes", ())))
        return {
            "slide": self.slide.name,
            "label": classes.get(self.slide.label, f"class {self.slide.label}"),
            "source": self.slide.source,
            "store": str(self.store.path),
        }

    @property
    def entries(self) -> dict[str, Any]:
        """What the layer's metadata say of the entries along the first axis."""
        mine = [entry.slides[self.slide.name] for entry in self.history]
        names = self.store.attributes["figures"]
        return {
            "epochs": [entry.epoch for entry in self.history],
            "steps": [entry.step for entry in self.history],
            "checks": self._axis == "check",
            "figures": {name: [getattr(one, name) for one in mine] for name in names},
            "metrics": [dict(entry.metrics) for entry in self.history],
            "top_tiles": [one.top for one in mine],
            "stopped_because": self.store.stopped_because,
        }

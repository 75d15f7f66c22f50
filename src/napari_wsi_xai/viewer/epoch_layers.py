"""Explanations of a training run as layers: one image a map, with the epoch as a slider."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_wsi_xai.errors import SlideError
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

    from napari_wsi_xai.training.epoch_store import EpochMap, EpochStore, StoredSlide

__all__ = ["EPOCH_MAP", "add_epoch_layers", "epoch_layer_data", "update_epoch_layers"]

EPOCH_MAP = "epoch map"
"""``kind`` of these layers in ``layer.metadata["napari_wsi_xai"]``."""

Find = Callable[[str], "Layer | None"]
Tell = Callable[[str], object]


def epoch_layer_data(
    store: EpochStore, find: Find | None = None, tell: Tell | None = None
) -> list[LayerData]:
    """Layer data tuples of a store with an epoch axis, bottom to top.

    Of every watched slide the slide itself, where it opens and is not shown yet, then a layer
    (epoch, y, x) a map. The first slide with its attention (else its last tile scores) is
    visible; the others wait hidden, as all slides begin at the same place.

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
    for number, slide in enumerate(store.slides):
        shown = find(slide.source) if find and slide.source else None
        if shown is None and slide.source is not None:
            layers += _slide(slide, tell, visible=number == 0)
        placement = _placement(slide, shown)
        maps = store.maps(slide.name)
        first = _first_shown(maps)
        for key in sorted(maps, key=lambda key: (key == first, not key.startswith("attention"))):
            if len(maps[key].values):
                visible = number == 0 and key == first
                layers.append(_image(store, slide, key, maps[key], placement, visible))
    return layers


def add_epoch_layers(viewer: napari.viewer.Viewer, store: EpochStore) -> list[Layer]:
    """Add a store's slides and maps to a viewer, over the slides that it shows already."""
    from napari.layers import Layer as LayerType

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
    for slide in store.slides:
        maps = store.maps(slide.name)
        for layer in layers:
            about = layer.metadata.get(METADATA_KEY, {})
            own = (about.get("kind"), about.get("store"), about.get("slide"))
            if own != (EPOCH_MAP, str(store.path), slide.name) or about["key"] not in maps:
                continue
            values = maps[about["key"]].values
            style = map_style(about["key"], values)
            follows = np.allclose(layer.contrast_limits, about["limits"], rtol=1e-5, atol=1e-12)
            layer.data = values
            if follows:
                layer.contrast_limits_range = layer.contrast_limits = style.limits
                about = about | {"limits": style.limits}
            layer.metadata[METADATA_KEY] = about | _entries(store)


def _slide(slide: StoredSlide, tell: Tell | None, visible: bool) -> list[LayerData]:
    from napari_wsi_xai.slides import open_slide

    assert slide.source is not None
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


def _image(
    store: EpochStore,
    slide: StoredSlide,
    key: str,
    one: EpochMap,
    placement: Placement,
    visible: bool,
) -> LayerData:
    grid = slide.grids[one.level]
    style = map_style(key, one.values)
    where = placement.of(grid.layer_transform(), grid.slide_mpp)
    steps = store.attributes["identity"].get("every") != "epoch"
    about = {
        "kind": EPOCH_MAP,
        "key": key,
        "slide": slide.name,
        "source": slide.source,
        "store": str(store.path),
        "grid": grid.to_dict(),
        "limits": style.limits,
        "colours": style.words,
    }
    keywords = {
        "name": f"{map_name(slide.name, key)} · {'checks' if steps else 'epochs'}",
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
        "axis_labels": ("check" if steps else "epoch", *where["axis_labels"]),
        "metadata": {METADATA_KEY: about | _entries(store)},
    }
    return one.values, keywords, "image"


def _entries(store: EpochStore) -> dict[str, Any]:
    """What the layer's metadata say of the entries along the first axis."""
    entries = store.attributes["epochs"]
    return {
        "epochs": [entry["epoch"] for entry in entries],
        "steps": [entry["step"] for entry in entries],
        "stopped_because": store.stopped_because,
    }

"""Runs as napari layers: one image a map, one pixel a tile, and the top tiles as labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.viewer.colours import diverging, label_colours, sequential
from napari_wsi_xai.viewer.slide_layers import (
    METADATA_KEY,
    LayerData,
    Placement,
    find_slide_layer,
    placement_on,
)
from napari_wsi_xai.viewer.snapshot import (
    METHOD_WORDS,
    TOP_TILES,
    RunFacts,
    Snapshot,
    frame_parts,
    tile_scores,
)

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Layer

    from napari_wsi_xai.runs import Run

__all__ = [
    "MapStyle",
    "add_layer_data",
    "add_layers",
    "layer_data",
    "layers_of_run",
    "map_name",
    "map_style",
    "run_layer_data",
    "show_colour_bars",
    "update_layers",
]

OPACITY = 0.7
TOP_TILES_KEY = "top tiles"


@dataclass(frozen=True)
class MapStyle:
    """How the values of a map become colours.

    Attributes
    ----------
    kind
        ``"diverging"`` (centred at 0) or ``"sequential"``.
    limits
        Values of the colormap's ends.
    words
        What colours mean, with the limits, for people.
    """

    kind: str
    limits: tuple[float, float]
    words: str


def map_style(key: str, values: NDArray[np.float32], score_kind: str = "") -> MapStyle:
    """Choose colours for a map from what it holds.

    Attention runs from 0 to its maximum. A tile score that takes both signs and whose zero means
    something (a class score: 0 speaks neither for nor against) diverges from 0, with limits
    ``-m, m`` for the largest absolute value m. Any other runs from its minimum to its maximum.

    Parameters
    ----------
    key
        ``"method/class"``.
    values
        (rows, cols) float32 with NaN where not computed.
    score_kind
        What a tile score is, in words; "attention logit" has no meaningful zero.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if key.startswith("attention/"):
        return _style("sequential", 0.0, high)
    if score_kind.startswith("attention") or (finite.size and low >= 0):
        return _style("sequential", 0.0 if 0 <= low <= high <= 1 else low, high)
    bound = max(abs(low), abs(high))
    return _style("diverging", -bound, bound)


def _style(kind: str, low: float, high: float) -> MapStyle:
    if not high > low:
        high = low + 1.0
    colours = "blue to orange, light at 0" if kind == "diverging" else "viridis"
    return MapStyle(kind, (low, high), f"{colours}, from {low:.3g} to {high:.3g}")


def map_name(name: str, key: str) -> str:
    """``"CMU-1 · tile score · tumor"`` from the slide's name and ``"tile-scores/tumor"``."""
    method, _, target = key.partition("/")
    words = METHOD_WORDS.get(method, method.replace("-", " "))
    return " · ".join([name, words] + ([target] if target not in ("", "all") else []))


def layer_data(
    facts: RunFacts, snapshot: Snapshot, placement: Placement | None = None
) -> list[LayerData]:
    """Layer data tuples of a run's maps and top tiles; a pure function.

    The map of the last class (by custom the one looked for) is visible, the others wait hidden.

    Parameters
    ----------
    facts, snapshot
        The run.
    placement
        Where the slide lies; micrometres from the origin by default.
    """
    mpp = facts.grid.slide_mpp
    where = (placement or Placement(scale=mpp)).of(facts.grid.layer_transform(), mpp)
    shown = _first_shown(facts, snapshot)
    # The visible map comes last of the images: napari stacks later layers on top.
    keys = sorted(snapshot.maps, key=lambda key: (key == shown, not key.startswith("attention")))
    images = [_image(facts, snapshot, key, where, key == shown) for key in keys]
    return [*images, _top_tiles(facts, snapshot, where)]


def run_layer_data(run: Run, placement: Placement | None = None) -> list[LayerData]:
    """:func:`layer_data` of the run as it stands now."""
    return layer_data(RunFacts.of(run), Snapshot.of(run), placement)


def _first_shown(facts: RunFacts, snapshot: Snapshot) -> str | None:
    """Key of the map to show: that of the last class (by custom the one looked for)."""
    for name in reversed(facts.classes):
        if f"tile-scores/{name}" in snapshot.maps:
            return f"tile-scores/{name}"
    scores = [key for key in snapshot.maps if key.startswith("tile-scores/")]
    return next(reversed(scores or list(snapshot.maps)), None)


def _image(
    facts: RunFacts, snapshot: Snapshot, key: str, where: dict[str, Any], visible: bool
) -> LayerData:
    values = snapshot.maps[key]
    style = map_style(key, values, facts.score_kind)
    keywords = {
        "name": map_name(facts.name, key),
        "colormap": diverging() if style.kind == "diverging" else sequential(),
        "contrast_limits": style.limits,
        "opacity": OPACITY,
        "interpolation2d": "nearest",
        "blending": "translucent_no_depth",
        "visible": visible,
        "metadata": {METADATA_KEY: _provenance(facts, snapshot, key, style)},
        **where,
    }
    return values.copy(), keywords, "image"


def _top_tiles(facts: RunFacts, snapshot: Snapshot, where: dict[str, Any]) -> LayerData:
    parts = frame_parts(facts.grid.shape)
    scale, translate = np.asarray(where["scale"]), np.asarray(where["translate"])
    keywords = {
        "name": f"{facts.name} · top tiles",
        "features": snapshot.features,
        "colormap": label_colours(len(tile_scores(snapshot.maps)), TOP_TILES),
        "opacity": 1.0,
        "metadata": {METADATA_KEY: _provenance(facts, snapshot, TOP_TILES_KEY, None)},
        **where,
        "scale": tuple(scale / parts),
        "translate": tuple(translate - scale / 2 + scale / parts / 2),
    }
    return snapshot.labels.copy(), keywords, "labels"


def _provenance(
    facts: RunFacts, snapshot: Snapshot, key: str, style: MapStyle | None
) -> dict[str, Any]:
    """What ``layer.metadata["napari_wsi_xai"]`` says of a map."""
    return {
        "kind": "map" if style else "top tiles",
        "key": key,
        "source": facts.source,
        "slide": facts.name,
        "store": facts.store,
        "group": facts.group,
        "model": facts.model,
        "score_kind": facts.score_kind,
        "grid": facts.grid.to_dict(),
        "colours": style.words if style else "one colour a class",
        "limits": style.limits if style else None,
        "probabilities": dict(snapshot.probabilities),
        "provisional": not snapshot.complete,
        "tiles": (snapshot.done, snapshot.total),
        "standing": snapshot.standing,
        "failed": snapshot.failed,
    }


def add_layers(viewer: napari.viewer.Viewer, run: Run) -> list[Layer]:
    """Add a run's maps and top tiles to a viewer, over the slide where it is shown.

    Parameters
    ----------
    viewer
        A napari viewer, or a ``ViewerModel``.
    run
        A run, finished or not; its maps are shown as they stand.

    Returns
    -------
    list of Layer
        The layers, maps first. :func:`update_layers` brings them up to date later.
    """
    facts = RunFacts.of(run)
    slide_layer = find_slide_layer(viewer.layers, facts.source)
    placement = placement_on(slide_layer, facts.grid.slide_mpp)
    active = viewer.layers.selection.active
    data = layer_data(facts, Snapshot.of(run), placement)
    layers = [add_layer_data(viewer, one) for one in data]
    viewer.layers.selection.active = active or layers[-1]
    show_colour_bars(layers)
    return layers


def add_layer_data(viewer: napari.viewer.Viewer, data: LayerData) -> Layer:
    """Add one layer."""
    from napari.layers import Layer as LayerType

    return viewer.add_layer(LayerType.create(*data))


def show_colour_bars(layers: list[Layer]) -> None:
    """Show colour bars beside the visible maps.

    Not while a run goes on: napari takes a fifth of a second to draw the first, and redraws it
    whenever limits move.
    """
    for layer in layers:
        if _key(layer) != TOP_TILES_KEY and layer.visible and hasattr(layer, "colorbar"):
            layer.colorbar.visible = True


def layers_of_run(viewer: napari.viewer.Viewer, facts: RunFacts) -> list[Layer]:
    """Layers of the viewer that show this run's maps (same slide, same store)."""
    found = []
    for layer in viewer.layers:
        about = layer.metadata.get(METADATA_KEY, {})
        if (
            about.get("kind") in ("map", "top tiles")
            and about.get("source") == facts.source
            and about.get("store") == facts.store
            and about.get("group") is facts.group
        ):
            found.append(layer)
    return found


def update_layers(layers: list[Layer], facts: RunFacts, snapshot: Snapshot) -> None:
    """Write new values into the layers of a run, in place; on the main thread.

    Contrast limits follow the values as long as nobody has moved them by hand.
    """
    for layer in layers:
        key = _key(layer)
        if key == TOP_TILES_KEY:
            _update_top_tiles(layer, facts, snapshot)
        elif key in snapshot.maps:
            _update_image(layer, facts, snapshot, key)


def _update_image(layer: Layer, facts: RunFacts, snapshot: Snapshot, key: str) -> None:
    values = snapshot.maps[key]
    style = map_style(key, values, facts.score_kind)
    before = layer.metadata[METADATA_KEY]["limits"]
    follows = np.allclose(layer.contrast_limits, before, rtol=1e-5, atol=1e-12)
    layer.data[...] = values
    if follows:
        layer.contrast_limits_range = style.limits
        layer.contrast_limits = style.limits
    colormap = diverging() if style.kind == "diverging" else sequential()
    about = _provenance(facts, snapshot, key, style)
    if about["colours"].split(",")[0] != layer.metadata[METADATA_KEY]["colours"].split(",")[0]:
        layer.colormap = colormap
    if not follows:
        about["limits"] = before
    layer.metadata[METADATA_KEY] = about
    layer.refresh()


def _update_top_tiles(layer: Layer, facts: RunFacts, snapshot: Snapshot) -> None:
    if not np.array_equal(layer.data, snapshot.labels):
        layer.data[...] = snapshot.labels
        layer.refresh()
    layer.features = snapshot.features
    layer.metadata[METADATA_KEY] = _provenance(facts, snapshot, TOP_TILES_KEY, None)


def _key(layer: Layer) -> str:
    return str(layer.metadata.get(METADATA_KEY, {}).get("key", ""))

"""Runs as napari layers: one image a map, one pixel a tile, and chosen tiles as frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_wsi_xai.viewer.colours import label_colours
from napari_wsi_xai.viewer.epoch_layers import add_epoch_layers
from napari_wsi_xai.viewer.map_styles import MapStyle, map_name, map_style
from napari_wsi_xai.viewer.pictures import (
    MAP_KINDS,
    TOP_TILES,
    FramesPicture,
    MapPicture,
    Picture,
)
from napari_wsi_xai.viewer.slide_layers import (
    METADATA_KEY,
    LayerData,
    Placement,
    find_slide_layer,
    placement_on,
)
from napari_wsi_xai.viewer.snapshot import (
    MOST_TOP_TILES,
    RunFacts,
    Snapshot,
    frame_parts,
    tile_scores,
)
from napari_wsi_xai.viewer.states import AnyFacts, AnySnapshot, facts_of, snapshot_of
from napari_wsi_xai.viewer.zoom_layers import zoom_pictures
from napari_wsi_xai.viewer.zoom_snapshot import ZoomFacts, ZoomSnapshot

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Layer

    from napari_wsi_xai.runs import Run, ZoomRun
    from napari_wsi_xai.training.epoch_store import EpochStore

__all__ = [
    "MapStyle",
    "add_layer_data",
    "add_layers",
    "key_of",
    "layer_data",
    "layers_of_run",
    "map_name",
    "map_style",
    "pictures",
    "run_layer_data",
    "show_colour_bars",
    "update_layers",
    "update_with",
]


def pictures(facts: AnyFacts, snapshot: AnySnapshot) -> list[Picture]:
    """What the layers of a run show, bottom to top.

    Of a run over one magnification the map of the last class (by custom the one looked for) is
    visible and lies on top of the others, which wait hidden.
    """
    if isinstance(facts, ZoomFacts):
        assert isinstance(snapshot, ZoomSnapshot)
        return zoom_pictures(facts, snapshot)
    assert isinstance(snapshot, Snapshot)
    shown = _first_shown(facts, snapshot)
    keys = sorted(snapshot.maps, key=lambda key: (key == shown, not key.startswith("attention")))
    images: list[Picture] = [_image(facts, snapshot, key, key == shown) for key in keys]
    return [*images, _top_tiles(facts, snapshot)]


def layer_data(
    facts: AnyFacts, snapshot: AnySnapshot, placement: Placement | None = None
) -> list[LayerData]:
    """Layer data tuples of a run's maps and frames, bottom to top; a pure function.

    Parameters
    ----------
    facts, snapshot
        The run.
    placement
        Where the slide lies; micrometres from the origin by default.
    """
    where = placement or Placement(scale=facts.slide_mpp)
    return [picture.layer_data(where) for picture in pictures(facts, snapshot)]


def run_layer_data(run: Run | ZoomRun, placement: Placement | None = None) -> list[LayerData]:
    """:func:`layer_data` of the run as it stands now."""
    return layer_data(facts_of(run), snapshot_of(run), placement)


def _first_shown(facts: RunFacts, snapshot: Snapshot) -> str | None:
    """Key of the map to show: that of the last class (by custom the one looked for)."""
    for name in reversed(facts.classes):
        if f"tile-scores/{name}" in snapshot.maps:
            return f"tile-scores/{name}"
    scores = [key for key in snapshot.maps if key.startswith("tile-scores/")]
    return next(reversed(scores or list(snapshot.maps)), None)


def _image(facts: RunFacts, snapshot: Snapshot, key: str, visible: bool) -> MapPicture:
    values = snapshot.maps[key]
    style = map_style(key, values, facts.score_kind)
    about = _provenance(facts, snapshot, key, style)
    return MapPicture(key, map_name(facts.name, key), values, style, facts.grid, about, visible)


def _top_tiles(facts: RunFacts, snapshot: Snapshot) -> FramesPicture:
    return FramesPicture(
        key=TOP_TILES,
        name=f"{facts.name} · {TOP_TILES}",
        labels=snapshot.labels,
        features=snapshot.features,
        parts=frame_parts(facts.grid.shape),
        grid=facts.grid,
        about=_provenance(facts, snapshot, TOP_TILES, None),
        colormap=label_colours(len(tile_scores(snapshot.maps)), MOST_TOP_TILES),
    )


def _provenance(
    facts: RunFacts, snapshot: Snapshot, key: str, style: MapStyle | None
) -> dict[str, Any]:
    """What ``layer.metadata["napari_wsi_xai"]`` says of a map."""
    return {
        "kind": "map" if style else TOP_TILES,
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


def add_layers(viewer: napari.viewer.Viewer, run: Run | ZoomRun | EpochStore) -> list[Layer]:
    """Add a run's maps and frames to a viewer, over the slide where it is shown.

    Parameters
    ----------
    viewer
        A napari viewer, or a ``ViewerModel``.
    run
        A run, finished or not; its maps are shown as they stand. Or the store of a training run:
        see :func:`~napari_wsi_xai.viewer.epoch_layers.add_epoch_layers`.

    Returns
    -------
    list of Layer
        The layers, maps first. :func:`update_layers` brings them up to date later.
    """
    from napari_wsi_xai.training.epoch_store import EpochStore

    if isinstance(run, EpochStore):
        return add_epoch_layers(viewer, run)
    facts = facts_of(run)
    slide_layer = find_slide_layer(viewer.layers, facts.source)
    placement = placement_on(slide_layer, facts.slide_mpp)
    active = viewer.layers.selection.active
    data = layer_data(facts, snapshot_of(run), placement)
    layers = [add_layer_data(viewer, one) for one in data]
    viewer.layers.selection.active = active or layers[-1]
    show_colour_bars(layers)
    return layers


def add_layer_data(
    viewer: napari.viewer.Viewer, data: LayerData, below: Layer | None = None
) -> Layer:
    """Add one layer, on top or right below another."""
    from napari.layers import Layer as LayerType

    layer = LayerType.create(*data)
    if below is None or below not in viewer.layers:
        return viewer.add_layer(layer)
    viewer.layers.insert(viewer.layers.index(below), layer)
    return layer


def show_colour_bars(layers: list[Layer]) -> None:
    """Show colour bars beside the visible maps.

    Not while a run goes on: napari takes a fifth of a second to draw the first, and redraws it
    whenever limits move. Nor for several magnifications: bars bear no names, and each
    magnification has limits of its own.
    """
    for layer in layers:
        about = layer.metadata[METADATA_KEY]
        if about["kind"] == "map" and "mpp" not in about and layer.visible:
            layer.colorbar.visible = True


def layers_of_run(viewer: napari.viewer.Viewer, facts: AnyFacts) -> list[Layer]:
    """Layers of the viewer that show this run's maps (same slide, same store)."""
    found = []
    for layer in viewer.layers:
        about = layer.metadata.get(METADATA_KEY, {})
        if (
            about.get("kind") in MAP_KINDS
            and about.get("source") == facts.source
            and about.get("store") == facts.store
            and about.get("group") is facts.group
        ):
            found.append(layer)
    return found


def update_layers(layers: list[Layer], facts: AnyFacts, snapshot: AnySnapshot) -> None:
    """Write new values into the layers of a run, in place; on the main thread.

    Contrast limits follow the values as long as nobody has moved them by hand.
    """
    update_with(layers, pictures(facts, snapshot))


def update_with(layers: list[Layer], shown: list[Picture]) -> None:
    """The same, from pictures that are made already."""
    by_key = {picture.key: picture for picture in shown}
    for layer in layers:
        if key_of(layer) in by_key:
            by_key[key_of(layer)].update(layer)


def key_of(layer: Layer) -> str:
    """Which map or frames of its run a layer shows; empty for other layers."""
    return str(layer.metadata.get(METADATA_KEY, {}).get("key", ""))

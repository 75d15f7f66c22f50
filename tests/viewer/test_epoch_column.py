"""Top tiles beside the slide, epoch by epoch, and what is said of the epoch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_wsi_xai.tiles import TileGrid
from napari_wsi_xai.training.epoch_store import EpochMap, EpochStore, StoredSlide
from napari_wsi_xai.training.figures import EpochFigures, SlideFigures
from napari_wsi_xai.viewer.epoch_column import EPOCH_TILES, column_layer_data, column_of
from napari_wsi_xai.viewer.epoch_layers import (
    add_epoch_layers,
    epoch_layer_data,
    update_epoch_layers,
)
from napari_wsi_xai.viewer.epoch_words import words_of_epoch
from napari_wsi_xai.viewer.slide_layers import METADATA_KEY, Placement

GRID = TileGrid((5, 7), 112, 0.5, 112, (100, 200), (0.5, 0.5), 0, 1.0)
WHY = "attention on excluded was > 0.5 in epochs 1 to 2, and the rule is: stop when excluded > 0.5."


def colour(epoch: int, rank: int) -> tuple[int, int, int]:
    return (20 * epoch, 20 * rank, 100)


def append(store: EpochStore, names: list[str]) -> None:
    """An entry; the pictures of each rank have a colour of their own."""
    epoch = len(store) + 1
    values = EpochMap(np.full(GRID.shape, epoch / 10, np.float32))
    pictures = np.empty((5, 24, 24, 3), np.uint8)
    for rank in range(5):
        pictures[rank] = colour(epoch, rank)
    figures = SlideFigures(0.5, math.nan, 0.1 * epoch, 0.9, math.nan, 0.25, ((1, epoch), (0, 0)))
    slides = {slide.name: figures for slide in store.slides}
    metrics = {"val_auc": 0.75, "train_loss": epoch / 4}
    store.append(
        EpochFigures(epoch, 10 * epoch, metrics, slides),
        {slide.name: {"attention/all": values} for slide in store.slides},
        dict.fromkeys(names, pictures),
    )


def make_store(
    folder: Path, source: str | None, entries: int = 3, every: Any = "epoch"
) -> EpochStore:
    slides = (StoredSlide("a", 1, (GRID,), source), StoredSlide("b", 0, (GRID,), None))
    identity = {"classes": ["normal", "tumor"], "every": every}
    store = EpochStore.create_or_resume(folder / "epochs.wsixai.zarr", slides, identity)
    for _ in range(entries):
        append(store, ["a"])
    return store


def columns(layers: list[Any]) -> list[Any]:
    kinds = [layer.metadata.get(METADATA_KEY, {}).get("kind") for layer in layers]
    return [layer for layer, kind in zip(layers, kinds, strict=True) if kind == EPOCH_TILES]


def test_the_column_stands_on_the_right_as_high_as_the_slide(
    tmp_path: Path, slide_path: Path
) -> None:
    viewer = ViewerModel()
    layers = add_epoch_layers(viewer, make_store(tmp_path, str(slide_path)))
    (column,) = columns(layers)
    assert column.name == "a · top tiles · tumor · epochs"
    assert column.rgb
    assert column.visible
    assert [str(unit) for unit in column.units] == ["pixel", "micrometer", "micrometer"]
    assert column.axis_labels == ("epoch", "y", "x")
    edges = column.extent.world
    assert edges.shape == (2, 3)
    half = np.array(column.scale[1:]) / 2
    low, high = edges[0, 1:] - half, edges[1, 1:] + half
    # The slide is 1500 x 1900 px of 0.5 um; napari puts its first pixel's centre at 0.
    np.testing.assert_allclose([low[0], high[0]], [-0.25, 749.75], atol=1e-3)
    assert 949.75 + 20 < low[1] < 949.75 + 60
    tile = (high[0] - low[0]) / (5 + 4 / 12)
    assert high[1] - low[1] == pytest.approx(tile)


def test_the_column_follows_the_slider(tmp_path: Path, slide_path: Path) -> None:
    viewer = ViewerModel()
    (column,) = columns(add_epoch_layers(viewer, make_store(tmp_path, str(slide_path))))
    assert viewer.dims.point[0] == 3  # the last epoch is shown first
    step = 26 * column.scale[1]
    for epoch in (1, 2, 3):
        viewer.dims.set_point(0, epoch)
        for rank in range(5):
            place = np.add(column.translate[1:], (rank * step + column.scale[1] * 12, 3))
            value = column.get_value((epoch, *place), world=True)
            assert tuple(value) == colour(epoch, rank)
        gap = np.add(column.translate[1:], (24.5 * column.scale[1], 3))
        assert tuple(column.get_value((epoch, *gap), world=True)) == (0, 0, 0)


def test_the_whole_view_holds_the_column(tmp_path: Path, slide_path: Path) -> None:
    viewer = ViewerModel()
    viewer.canvas.size = (800, 1000)
    (column,) = columns(add_epoch_layers(viewer, make_store(tmp_path, str(slide_path))))
    camera = viewer.scene.camera
    shown = 1000 / camera.zoom
    right = column.extent.world[1, 2]
    assert camera.center[2] + shown / 2 > right
    assert camera.center[2] - shown / 2 < 0
    kept = camera.zoom
    append(store := EpochStore.open(tmp_path / "epochs.wsixai.zarr", mode="r+"), ["a"])
    camera.zoom = 2 * kept
    update_epoch_layers(list(viewer.layers), store)
    assert camera.zoom == 2 * kept
    assert column.data.shape[0] == 4
    assert tuple(column.data[3, 0, 0]) == colour(4, 0)
    assert column.metadata[METADATA_KEY]["top_tiles"][3][0] == (1, 4)


def test_a_viewer_in_use_stays_where_it_is(tmp_path: Path, slide_path: Path) -> None:
    viewer = ViewerModel()
    viewer.add_image(np.zeros((9000, 9000), np.uint8))
    zoom = viewer.scene.camera.zoom
    add_epoch_layers(viewer, make_store(tmp_path, str(slide_path)))
    assert viewer.scene.camera.zoom == zoom


def test_without_the_slide_the_column_stands_beside_the_tiles(tmp_path: Path) -> None:
    store = make_store(tmp_path, "/nowhere/a.svs")
    layers = {keywords["name"]: keywords for _, keywords, _ in epoch_layer_data(store)}
    assert list(layers) == [
        "b · attention · epochs",
        "a · top tiles · tumor · epochs",
        "a · attention · epochs",
    ]
    column = layers["a · top tiles · tumor · epochs"]
    height = column["scale"][1] * (5 * 24 + 4 * 2)
    assert height == pytest.approx((100 + 5 * 112) * 0.5)
    assert column["translate"][2] > (200 + 7 * 112) * 0.5


def test_beside_a_wide_slide_tiles_are_still_seen() -> None:
    pictures = np.zeros((1, 5, 96, 96, 3), np.uint8)
    about: dict[str, Any] = {"axis": "epoch", "about": {}}
    _, keywords, _ = column_layer_data(
        pictures, Placement((0.25, 0.25), (10.0, 20.0)), (1000, 8000), about
    )
    pixel = keywords["scale"][1]
    assert 512 * pixel == pytest.approx(8000 * 0.25 / 2)
    right = 20 + 7999.5 * 0.25
    np.testing.assert_allclose(
        keywords["translate"], (1, 9.875 + pixel / 2, right + (96 / 4 + 0.5) * pixel)
    )


def test_gaps_are_a_twelfth_of_a_tile() -> None:
    pictures = np.full((2, 5, 96, 96, 3), 7, np.uint8)
    column = column_of(pictures)
    assert column.shape == (2, 512, 96, 3)
    rows = column[0, :, 0, 0]
    assert rows.tolist() == ([7] * 96 + [0] * 8) * 4 + [7] * 96


def test_the_epoch_is_told_in_words(tmp_path: Path, slide_path: Path) -> None:
    store = make_store(tmp_path, str(slide_path))
    store.update_attributes(stopped_because=WHY)
    viewer = ViewerModel()
    layers = add_epoch_layers(viewer, store)
    text = viewer.canvas.overlays.text
    assert text.visible
    assert text.text.splitlines() == [
        "epoch 3 of 3 · validation AUC 0.750 · training loss 0.750",
        "a, tumor · probability 0.25 · localisation 0.30 · attention on excluded 0.90 "
        "· entropy 0.50",
        "stopped: attention on excluded was > 0.5 in epochs 1 to 2",
    ]
    viewer.dims.set_point(0, 1)
    assert text.text.startswith("epoch 1 of 3 ·")
    assert len(text.text.splitlines()) == 2
    layers[-1].visible = False
    assert text.text == ""
    layers[0].visible = True
    assert "\nb, normal · " in text.text
    append(store, ["a"])
    update_epoch_layers(layers, store)
    assert text.text.startswith("epoch 1 of 4 ·")
    text.visible = False
    viewer.dims.set_point(0, 2)
    assert text.text.startswith("epoch 2 of 4 ·")
    assert not text.visible
    viewer.layers.clear()
    assert text.text == ""


def test_the_words_of_others_stay(tmp_path: Path) -> None:
    viewer = ViewerModel()
    viewer.canvas.overlays.text.text = "mine"
    add_epoch_layers(viewer, make_store(tmp_path, None))
    viewer.dims.set_point(0, 2)
    assert viewer.canvas.overlays.text.text == "mine"


def test_words_of_checks_and_no_line_too_long(tmp_path: Path) -> None:
    store = make_store(tmp_path, None, every=10)
    store.update_attributes(stopped_because="why " * 60)
    about = epoch_layer_data(store)[-1][1]["metadata"][METADATA_KEY]
    lines = words_of_epoch(about | {"slide": "s" * 90}, 2).splitlines()
    assert lines[0].startswith("epoch 3 of 3 · step 30 ·")
    assert max(map(len, lines)) <= 130
    assert not any(line.startswith(("·", " ")) or line.endswith("·") for line in lines)

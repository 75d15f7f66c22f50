"""A training run's explanations in napari: a slider over epochs, in place over the slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_wsi_xai.tiles import TileGrid
from napari_wsi_xai.training.epoch_store import EpochMap, EpochStore, StoredSlide
from napari_wsi_xai.training.figures import EpochFigures, SlideFigures
from napari_wsi_xai.viewer.epoch_layers import (
    EPOCH_MAP,
    add_epoch_layers,
    epoch_layer_data,
    update_epoch_layers,
)
from napari_wsi_xai.viewer.layers import add_layers
from napari_wsi_xai.viewer.reader import get_reader, read_epochs, read_run, read_slide
from napari_wsi_xai.viewer.slide_layers import METADATA_KEY, is_slide_layer

GRID = TileGrid((5, 7), 112, 0.5, 112, (100, 200), (0.5, 0.5), 0, 1.0)


def append(store: EpochStore, count: int) -> None:
    for _ in range(count):
        number = len(store)
        values = np.full(GRID.shape, (number + 1) / 10, np.float32)
        values[0] = np.nan
        maps = {"attention/all": EpochMap(values), "tile-scores/all": EpochMap(-values)}
        figures = {slide.name: SlideFigures() for slide in store.slides}
        entry = EpochFigures(number + 1, 10 * (number + 1), {}, figures)
        store.append(entry, {slide.name: maps for slide in store.slides})


def make_store(
    folder: Path, sources: dict[str, str | None], entries: int = 4, every: Any = "epoch"
) -> EpochStore:
    slides = tuple(StoredSlide(name, 1, (GRID,), source) for name, source in sources.items())
    identity = {"classes": ["normal", "tumor"], "head": "abmil", "every": every}
    store = EpochStore.create_or_resume(folder / "epochs.wsixai.zarr", slides, identity)
    append(store, entries)
    return store


def test_the_reader_opens_slide_and_maps_with_an_axis_of_epochs(
    tmp_path: Path, slide_path: Path
) -> None:
    store = make_store(tmp_path, {"small": str(slide_path)})
    reader = get_reader(str(store.path))
    assert reader is read_epochs
    viewer = ViewerModel()
    slide, scores, attention = [
        viewer._add_layer_from_data(*one)[0] for one in reader(str(store.path))
    ]
    assert is_slide_layer(slide)
    assert [scores.name, attention.name] == [
        "small · tile score · epochs",
        "small · attention · epochs",
    ]
    assert (slide.visible, scores.visible, attention.visible) == (True, False, True)
    assert attention.data.shape == (4, 5, 7)
    assert attention.axis_labels == ("epoch", "y", "x")
    assert viewer.dims.ndim == 3
    assert viewer.dims.axis_labels == ("epoch", "y", "x")
    assert viewer.dims.nsteps[0] == 4
    assert tuple(viewer.dims.range[0]) == (1.0, 4.0, 1.0)
    assert attention.contrast_limits == pytest.approx([0, 0.4])


def test_each_epoch_shows_its_own_map_over_the_slide(tmp_path: Path, slide_path: Path) -> None:
    store = make_store(tmp_path, {"small": str(slide_path)})
    viewer = ViewerModel()
    layers = add_layers(viewer, store)
    attention = layers[-1]
    # The first tile's corner, in micrometres, on a slide whose first pixel's centre is at 0.
    corner = (np.array([0, 0]) - 0.5) * attention.scale[1:] + attention.translate[1:]
    np.testing.assert_allclose(corner, (np.array([100, 200]) - 0.5) * 0.5)
    assert [str(unit) for unit in attention.units] == ["pixel", "micrometer", "micrometer"]
    assert viewer.layers.extent.units is not None
    assert [str(unit) for unit in viewer.layers.extent.units][1:] == ["micrometer"] * 2
    middle = attention.translate[1:] + 2 * attention.scale[1:]
    for epoch in (1, 2, 3, 4):
        viewer.dims.set_point(0, epoch)
        assert attention.get_value((epoch, *middle), world=True) == pytest.approx(epoch / 10)
        assert np.isfinite(layers[0].get_value((epoch, *middle), world=True)[1]).all()


def test_a_slide_that_is_shown_is_not_opened_again(tmp_path: Path, slide_path: Path) -> None:
    store = make_store(tmp_path, {"small": str(slide_path)})
    viewer = ViewerModel()
    data, keywords, kind = read_slide(str(slide_path))[0]
    viewer._add_layer_from_data(data, keywords | {"translate": (1000.0, 500.0)}, kind)
    layers = add_epoch_layers(viewer, store)
    assert len(viewer.layers) == 3
    moved = np.array(layers[-1].translate[1:]) - GRID.layer_transform().translate
    np.testing.assert_allclose(moved, (1000, 500))


def test_of_several_slides_the_first_is_visible(tmp_path: Path, slide_path: Path) -> None:
    told: list[str] = []
    sources = {"one": None, "two": str(slide_path), "gone": "/nowhere/gone.svs"}
    data = epoch_layer_data(make_store(tmp_path, sources), tell=told.append)
    visible = {keywords["name"]: keywords.get("visible") for _, keywords, _ in data}
    assert len(visible) == 7
    assert [name for name, shown in visible.items() if shown] == ["one · attention · epochs"]
    assert len(told) == 1
    assert told[0].startswith("The maps of gone open without their slide")


def test_half_an_epoch_and_no_epoch_are_not_shown(tmp_path: Path) -> None:
    assert epoch_layer_data(make_store(tmp_path, {"s": None}, 0)) == []
    store = make_store(tmp_path, {"s": None}, 2)
    values = EpochMap(np.ones(GRID.shape, np.float32))
    array = store._map_array(store.slides[0], "attention/all", values)
    array.resize((3, *GRID.shape))
    (_, _, _), (maps, _, _) = epoch_layer_data(EpochStore.open(tmp_path / "epochs.wsixai.zarr"))
    assert maps.shape == (2, *GRID.shape)


def test_epochs_that_are_added_appear(tmp_path: Path) -> None:
    store = make_store(tmp_path, {"s": None}, 2)
    viewer = ViewerModel()
    layers = add_epoch_layers(viewer, store)
    layers[0].contrast_limits = (-1, 1)
    append(store, 3)
    assert store.path is not None
    update_epoch_layers(list(viewer.layers), EpochStore.open(store.path))
    assert layers[1].data.shape == (5, *GRID.shape)
    assert viewer.dims.nsteps[0] == 5
    assert layers[1].contrast_limits == pytest.approx([0, 0.5])
    assert layers[0].contrast_limits == pytest.approx([-1, 1])
    about = layers[1].metadata[METADATA_KEY]
    assert (about["kind"], about["epochs"]) == (EPOCH_MAP, [1, 2, 3, 4, 5])


def test_checks_are_called_so(tmp_path: Path) -> None:
    data = epoch_layer_data(make_store(tmp_path, {"s": None}, 2, every=10))
    assert data[-1][1]["name"] == "s · attention · checks"
    assert data[-1][1]["axis_labels"] == ("check", "y", "x")
    assert data[-1][1]["metadata"][METADATA_KEY]["steps"] == [10, 20]


def test_runs_still_open_as_runs(finished: Any) -> None:
    assert get_reader(str(finished.path)) is read_run

"""Runs over several magnifications as layers: in place, in order, and telling what was opened."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napari.components import ViewerModel
from zoom_cases import COARSEST, FACTS, GRIDS, MPPS, make_snapshot, opened_tiles

from napari_wsi_xai.viewer.layers import layer_data, layers_of_run, pictures, update_layers
from napari_wsi_xai.viewer.pictures import MAP_KINDS
from napari_wsi_xai.viewer.slide_layers import METADATA_KEY
from napari_wsi_xai.viewer.zoom_frames import OpenedTiles, frame_opened
from napari_wsi_xai.viewer.zoom_snapshot import nested_on


def test_a_layer_a_magnification_coarse_to_fine_and_frames_on_top() -> None:
    data = layer_data(FACTS, make_snapshot())
    assert [keywords["name"] for _, keywords, _ in data] == [
        "s · attention · 8 µm/px",
        "s · attention · 2 µm/px",
        "s · attention · 0.5 µm/px",
        "s · opened tiles",
    ]
    assert all(keywords.get("visible", True) for _, keywords, _ in data)


@pytest.mark.parametrize("begun", [1, 2, 3])
def test_a_magnification_has_no_layer_before_its_turn(begun: int) -> None:
    keys = [picture.key for picture in pictures(FACTS, make_snapshot(begun, complete=False))]
    expected = [f"attention/{mpp:g} µm/px" for mpp in MPPS[:begun]]
    assert keys == expected + (["opened tiles"] if begun > 1 else [])


def test_each_magnification_has_limits_of_its_own_from_zero() -> None:
    for level, (_, keywords, _) in enumerate(layer_data(FACTS, make_snapshot())[:3]):
        assert keywords["contrast_limits"] == (0, 0.5 + level)


def test_tiles_not_looked_at_are_transparent() -> None:
    viewer = ViewerModel()
    layer = viewer._add_layer_from_data(*layer_data(FACTS, make_snapshot())[1])[0]
    seen = np.isfinite(layer.data)
    assert seen[0].all()
    assert not seen[1:].any()
    assert layer.colormap.map(layer.data[1])[:, 3].max() == 0


@given(st.integers(0, 2), st.integers(0, 1), st.integers(0, 2))
def test_a_tile_and_its_children_cover_the_same_ground(level: int, row: int, column: int) -> None:
    data = layer_data(FACTS, make_snapshot())
    _, keywords, _ = data[level]
    corner = (np.array([row, column]) - 0.5) * keywords["scale"] + keywords["translate"]
    exact = (np.array(COARSEST.origin_level0) - 0.5) * 0.25
    np.testing.assert_allclose(corner, exact + np.array([row, column]) * 64 * MPPS[level])
    assert [str(unit) for unit in keywords["units"]] == ["um", "um"]


def test_frames_lie_on_the_tiles_that_were_opened() -> None:
    data, keywords, kind = layer_data(FACTS, make_snapshot())[-1]
    layer = ViewerModel()._add_layer_from_data(data, keywords, kind)[0]
    for magnification, grid in zip(("8 µm/px", "2 µm/px"), GRIDS, strict=False):
        size = grid.tile_px * grid.mpp
        rows = layer.features[layer.features["magnification"] == magnification]
        assert len(rows) == 2
        for _, tile in rows.iterrows():
            framed = np.argwhere(layer.data == tile["index"])
            low = (framed.min(axis=0) - 0.5) * layer.scale + layer.translate
            high = (framed.max(axis=0) + 0.5) * layer.scale + layer.translate
            corner = (np.array([tile["y_level0"], tile["x_level0"]]) - 0.5) * 0.25
            # A finer frame may lie a label pixel within its tile, to show beside a coarser one.
            assert (low >= corner - 1e-6).all()
            assert (low <= corner + layer.scale + 1e-6).all()
            assert (high <= corner + size + 1e-6).all()
            assert (high >= corner + size - layer.scale - 1e-6).all()


def test_the_table_tells_of_every_opened_tile_the_strongest_choice_first() -> None:
    _, features, _ = frame_opened([opened_tiles(0, [(0, 1), (2, 3)]), opened_tiles(1, [(1, 5)])])
    assert features["index"] == [0, 1, 3, 2]
    assert features["magnification"][1:] == ["8 µm/px", "8 µm/px", "2 µm/px"]
    assert list(zip(features["row"], features["column"], strict=True))[1:] == [
        (2, 3),
        (0, 1),
        (1, 5),
    ]
    assert features["attention"][1:] == pytest.approx([0.5, 0.1, 0.1])
    assert features["selection weight"][1:] == pytest.approx([0.6, 0.2, 0.2])
    corner = GRIDS[0].origins_level0([(2, 3)])[0]
    assert (features["y_level0"][1], features["x_level0"][1]) == tuple(corner)


def test_an_opened_tile_in_an_opened_tile_shows_both_frames() -> None:
    corner = [opened_tiles(0, [(1, 1)]), opened_tiles(1, [(4, 4)])]
    labels, _, parts = frame_opened(corner)
    tile = labels[4 * parts : 5 * parts, 4 * parts : 5 * parts]
    assert (tile[0] == 1).all()
    assert (tile[1, 1:-1] == 2).all()
    assert tile[parts // 2, parts // 2] == 0


@given(st.sampled_from([(1, 1), (40, 40), (300, 300), (2500, 2500)]), st.integers(1, 3))
def test_frames_are_drawn_on_grids_of_any_size(shape: tuple[int, int], count: int) -> None:
    from dataclasses import replace

    grids = nested_on(replace(COARSEST, shape=shape), [8.0 / 2**m for m in range(count)])
    grids = tuple(replace(grid, finest_mpp=8.0 / 2 ** (count - 1)) for grid in grids)
    weights = np.ones(1, np.float32)
    levels = [OpenedTiles(g, np.array([[0, 0]]), weights, weights) for g in grids]
    labels, features, parts = frame_opened(levels)
    assert labels.shape == tuple(n * parts for n in grids[-1].shape)
    assert labels.size <= 4_000_000 or parts == 1
    assert features["index"] == list(range(count + 1))
    assert set(np.unique(labels)) >= {0, count} - ({0} if shape == (1, 1) else set())


def test_many_opened_tiles_keep_one_colour_a_magnification() -> None:
    everywhere = [(r, c) for r, c in itertools.product(range(12), range(16))]
    labels, features, _ = frame_opened([opened_tiles(0, [(0, 0)]), opened_tiles(1, everywhere)])
    assert labels.dtype == np.uint16
    assert labels.max() == 2 * 192
    snapshot = make_snapshot()
    colours = layer_data(FACTS, snapshot)[-1][1]["colormap"]
    coarse, fine = colours.map(np.array([1, 2], np.uint16))
    assert not np.allclose(coarse, fine)
    own = np.array(features["index"][1:], np.uint16)
    expected = [coarse if one % 2 else fine for one in own]
    np.testing.assert_allclose(colours.map(own), expected)
    assert colours.map(np.array([0], np.uint16))[0, 3] == 0


def test_updates_are_in_place_and_fill_what_was_empty() -> None:
    viewer = ViewerModel()
    first = make_snapshot(2, complete=False)
    layers = [viewer._add_layer_from_data(*one)[0] for one in layer_data(FACTS, first)]
    array = layers[1].data
    assert np.isnan(array).all()
    assert layers[1].metadata[METADATA_KEY]["provisional"]
    update_layers(layers, FACTS, make_snapshot())
    assert layers[1].data is array
    assert np.isfinite(array[0]).all()
    assert layers[1].metadata[METADATA_KEY]["provisional"] is False
    np.testing.assert_allclose(layers[1].contrast_limits, (0, 1.5))
    assert {3, 4} & set(layers[-1].features["index"])
    assert layers_of_run(viewer, FACTS) == layers


def test_every_layer_says_where_it_comes_from() -> None:
    for _, keywords, _ in layer_data(FACTS, make_snapshot()):
        about = keywords["metadata"][METADATA_KEY]
        assert about["kind"] in MAP_KINDS
        assert (about["source"], about["slide"], about["model"]) == ("/s.svs", "s", "m")
        assert about["probabilities"] == {"normal": 0.2, "tumor": 0.8}

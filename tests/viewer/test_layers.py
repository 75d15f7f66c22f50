"""Maps lie exactly on their tiles, say what they are, and follow a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from napari.components import ViewerModel

from napari_wsi_xai.tiles import TileGrid
from napari_wsi_xai.viewer.layers import (
    add_layers,
    layer_data,
    layers_of_run,
    map_name,
    map_style,
    run_layer_data,
    update_layers,
)
from napari_wsi_xai.viewer.slide_layers import METADATA_KEY, Placement, slide_layer_data
from napari_wsi_xai.viewer.snapshot import RunFacts, Snapshot, frame_parts, label_top_tiles


def make_grid(
    shape: tuple[int, int] = (5, 7),
    origin: tuple[int, int] = (30, 50),
    slide_mpp: tuple[float, float] = (0.25, 0.25),
    stride_px: int = 112,
) -> TileGrid:
    return TileGrid(shape, 112, 0.5, stride_px, origin, slide_mpp, 0, 1.0)


def make_snapshot(maps: dict[str, np.ndarray], grid: TileGrid, **values: Any) -> Snapshot:
    labels, features = label_top_tiles(maps, grid)
    state = {"probabilities": {}, "done": 1, "total": 35, "complete": False, "failed": 0}
    return Snapshot(maps=maps, labels=labels, features=features, **(state | values))


def make_maps(shape: tuple[int, int] = (5, 7), seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=shape).astype(np.float32)
    scores[0, 0] = np.nan
    return {
        "tile-scores/normal": -scores,
        "tile-scores/tumor": scores,
        "attention/all": rng.random(shape).astype(np.float32),
    }


def make_facts(grid: TileGrid, **values: Any) -> RunFacts:
    return RunFacts("/s.svs", "s", grid, ("normal", "tumor"), "m", "class logit", **values)


SNAPSHOT = make_snapshot(make_maps(), make_grid())


@given(
    origin=st.tuples(st.integers(0, 5000), st.integers(0, 5000)),
    mpp=st.tuples(st.floats(0.1, 2), st.floats(0.1, 2)),
    tile=st.tuples(st.integers(0, 4), st.integers(0, 6)),
)
def test_tile_corner_in_the_world_is_its_level0_corner_times_mpp(
    origin: tuple[int, int], mpp: tuple[float, float], tile: tuple[int, int]
) -> None:
    grid = make_grid(origin=origin, slide_mpp=mpp)
    for data, keywords, _ in layer_data(make_facts(grid), SNAPSHOT):
        parts = np.array(data.shape) / grid.shape
        # Data coordinates of a pixel's first corner are half a pixel before its centre.
        corner = (np.array(tile) * parts - 0.5) * keywords["scale"] + keywords["translate"]
        level0 = grid.origins_level0([tile])[0]
        # The slide's own corner lies half a pixel before its first pixel's centre, at 0.
        assert np.abs(corner / np.array(mpp) + 0.5 - level0).max() <= 0.51  # corners are rounded
        exact = (np.array(origin) + np.array(tile) * grid.stride_level0 - 0.5) * mpp
        np.testing.assert_allclose(corner, exact, rtol=1e-9, atol=1e-6)


def test_overlapping_tiles_map_to_pixels_one_stride_wide_centred_on_the_tile() -> None:
    grid = make_grid(stride_px=56)
    image, *_ = layer_data(make_facts(grid), make_snapshot(make_maps(), grid))
    layer = ViewerModel()._add_layer_from_data(*image)[0]
    centre = layer.data_to_world((2, 3))
    level0 = np.array([30, 50]) + np.array([2, 3]) * 112 + 224 / 2
    np.testing.assert_allclose(centre, (level0 - 0.5) * 0.25)
    np.testing.assert_allclose(layer.scale, 112 * 0.25)


def test_every_layer_has_units_and_axis_labels_so_that_napari_keeps_micrometres() -> None:
    grid = make_grid()
    viewer = ViewerModel()
    for data in layer_data(make_facts(grid), make_snapshot(make_maps(), grid)):
        layer = viewer._add_layer_from_data(*data)[0]
        assert [str(unit) for unit in layer.units] == ["micrometer", "micrometer"]
        assert layer.axis_labels == ("y", "x")


def test_names_tell_slide_method_and_class() -> None:
    assert map_name("CMU-1", "tile-scores/tumor") == "CMU-1 · tile score · tumor"
    assert map_name("CMU-1", "attention/all") == "CMU-1 · attention"


def test_only_the_map_of_the_last_class_is_visible() -> None:
    grid = make_grid()
    data = layer_data(make_facts(grid), make_snapshot(make_maps(), grid))
    visible = {d[1]["name"]: d[1].get("visible", True) for d in data}
    assert visible == {
        "s · attention": False,
        "s · tile score · normal": False,
        "s · tile score · tumor": True,
        "s · top tiles": True,
    }


def test_scores_of_both_signs_diverge_from_zero_with_equal_limits() -> None:
    values = np.array([[np.nan, -3, 0.5, 2]], dtype=np.float32)
    style = map_style("tile-scores/tumor", values, "class logit")
    assert (style.kind, style.limits) == ("diverging", (-3, 3))
    assert "from -3 to 3" in style.words


def test_attention_runs_from_zero_and_attention_logits_from_their_minimum() -> None:
    values = np.array([[0.2, np.nan, 0.4]], dtype=np.float32)
    assert map_style("attention/all", values).limits == pytest.approx((0, 0.4))
    logits = np.array([[-2, 5]], dtype=np.float32)
    assert map_style("tile-scores/all", logits, "attention logit").limits == (-2, 5)
    assert map_style("tile-scores/all", logits, "attention logit").kind == "sequential"


@pytest.mark.parametrize("values", [np.full((2, 2), np.nan), np.full((2, 2), 4.0)])
def test_limits_are_never_empty(values: np.ndarray) -> None:
    for key in ("attention/all", "tile-scores/all"):
        low, high = map_style(key, values.astype(np.float32)).limits
        assert low < high


def test_not_computed_is_transparent_and_faint_means_little() -> None:
    from napari_wsi_xai.viewer.colours import diverging, sequential

    middle = diverging().map(np.array([0.0, 0.5, 1.0]))
    assert middle[1, 3] < middle[0, 3] == middle[2, 3] == 1
    ramp = sequential().map(np.linspace(0, 1, 5))
    assert (np.diff(ramp[:, 3]) > 0).all()
    assert sequential().map(np.array([np.nan]))[0, 3] == 0


def test_lightness_of_the_diverging_map_falls_evenly_to_both_sides() -> None:
    from napari_wsi_xai.viewer import colours

    rgb = np.asarray(colours.diverging().colors, dtype=float)[:, :3]
    lightness = colours._to_oklab(rgb)[:, 0]
    steps = np.diff(lightness)
    half = len(steps) // 2
    assert np.ptp(steps[:half]) < 1e-3
    assert np.ptp(steps[half:]) < 1e-3
    assert steps[0] > 0 > steps[-1]


def test_top_tiles_are_the_highest_and_the_table_tells_where_they_are() -> None:
    grid = make_grid((10, 10))
    scores = np.arange(100, dtype=np.float32).reshape(10, 10)
    scores[9, 9] = np.nan
    labels, features = label_top_tiles({"tile-scores/tumor": scores}, grid, count=3)
    parts = frame_parts(grid.shape)
    assert features["class"] == ["background", "tumor", "tumor", "tumor"]
    assert features["score"][1:] == [98, 97, 96]
    assert list(zip(features["row"], features["column"], strict=True))[1] == (9, 8)
    corner = grid.origins_level0([(9, 8)])[0]
    assert (features["y_level0"][1], features["x_level0"][1]) == tuple(corner)
    frame = labels[9 * parts : 10 * parts, 8 * parts : 9 * parts]
    assert (frame[0] == 1).all()
    assert (frame[:, -1] == 1).all()
    assert (frame[1:-1, 1:-1] == 0).all()
    assert set(np.unique(labels)) == {0, 1, 2, 3}


def test_a_tile_at_the_top_of_two_classes_goes_to_the_one_where_it_ranks_higher() -> None:
    grid = make_grid((10, 10))
    first = np.arange(100, dtype=np.float32).reshape(10, 10)
    second = first.copy()
    second[0, 0] = 1000
    maps = {"tile-scores/a": first, "tile-scores/b": second}
    _, features = label_top_tiles(maps, grid, count=2)
    table = list(zip(features["index"], features["class"], features["row"], strict=True))[1:]
    # (9, 9) is first in a and second in b; labels of b begin after the two of a.
    assert table == [(1, "a", 9), (2, "a", 9), (3, "b", 0)]


def test_few_scored_tiles_have_few_top_tiles() -> None:
    scores = np.full((10, 10), np.nan, dtype=np.float32)
    scores[0, :4] = 1
    _, features = label_top_tiles({"tile-scores/all": scores}, make_grid((10, 10)))
    assert len(features["index"]) == 2


def test_updates_are_in_place_and_limits_follow_until_someone_moves_them() -> None:
    grid, viewer = make_grid(), ViewerModel()
    facts = make_facts(grid)
    first = make_snapshot(make_maps(), grid)
    layers = [viewer._add_layer_from_data(*d)[0] for d in layer_data(facts, first)]
    image = next(layer for layer in layers if layer.name == "s · tile score · tumor")
    array = image.data
    larger = {key: values * 2 for key, values in first.maps.items()}
    update_layers(layers, facts, make_snapshot(larger, grid, probabilities={"tumor": 0.9}))
    assert image.data is array
    np.testing.assert_array_equal(array, larger["tile-scores/tumor"])
    bound = np.nanmax(np.abs(larger["tile-scores/tumor"]))
    np.testing.assert_allclose(image.contrast_limits, (-bound, bound))
    about = image.metadata[METADATA_KEY]
    assert about["probabilities"] == {"tumor": 0.9}
    assert about["standing"] == "provisional, 1 of 35 tissue tiles"
    image.contrast_limits = (-0.1, 0.1)
    update_layers(layers, facts, first)
    np.testing.assert_allclose(image.contrast_limits, (-0.1, 0.1))


def test_maps_follow_a_slide_that_lies_in_pixels() -> None:
    grid = make_grid()
    placement = Placement((1.0, 1.0), (0.0, 0.0), ("pixel", "pixel"))
    data = layer_data(make_facts(grid), make_snapshot(make_maps(), grid), placement)[0]
    layer = ViewerModel()._add_layer_from_data(*data)[0]
    np.testing.assert_allclose(layer.data_to_world((-0.5, -0.5)), np.array([30, 50]) - 0.5)
    assert str(layer.units[0]) == "pixel"


def test_add_layers_shows_a_run_over_its_slide(finished: Any) -> None:
    viewer = ViewerModel()
    slide_layer = viewer._add_layer_from_data(*slide_layer_data(finished.slide))[0]
    layers = add_layers(viewer, finished)
    assert [layer.name for layer in layers] == [
        "small · attention",
        "small · tile score",
        "small · top tiles",
    ]
    assert viewer.layers.selection.active is slide_layer
    np.testing.assert_array_equal(layers[1].data, finished.maps["tile-scores/all"])
    about = layers[1].metadata[METADATA_KEY]
    assert about["probabilities"] == finished.probabilities
    assert about["provisional"] is False
    assert layers_of_run(viewer, RunFacts.of(finished)) == layers
    assert [data[1]["name"] for data in run_layer_data(finished)] == [x.name for x in layers]


def test_grids_of_any_size_have_frames_that_repaint_quickly() -> None:
    assert frame_parts((10, 10)) == 12
    assert frame_parts((400, 400)) == 5
    assert frame_parts((4000, 4000)) == 1

"""The reader claims what it can open, and nothing else, and never raises while it looks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from napari.components import ViewerModel

from napari_wsi_xai.errors import SlideError
from napari_wsi_xai.viewer.reader import get_reader, read_run, read_slide
from napari_wsi_xai.viewer.slide_layers import (
    METADATA_KEY,
    find_slide_layer,
    is_slide_layer,
    reference_of_layer,
    show_associated_images,
    state_mpp,
)


@given(st.one_of(st.text(), st.none(), st.lists(st.text(), max_size=3), st.binary()))
def test_looking_never_raises(path: Any) -> None:
    assert get_reader(path) is None or callable(get_reader(path))


@settings(max_examples=30)
@given(
    st.binary(max_size=400),
    st.sampled_from([".tif", ".svs", ".ndpi", ".mrxs", ".dcm", ".zarr", ".wsixai.zarr", ""]),
)
def test_looking_into_any_file_never_raises(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("any") / f"file{suffix}"
    path.write_bytes(content)
    reader = get_reader(str(path))
    if reader is not None:
        with pytest.raises(SlideError):
            reader(str(path))


def test_what_is_not_a_slide_is_left_to_others(tmp_path: Path) -> None:
    photograph = tmp_path / "photo.tif"
    tifffile.imwrite(photograph, np.zeros((40, 50, 3), np.uint8))
    folder = tmp_path / "folder"
    folder.mkdir()
    missing = tmp_path / "nothing.svs"
    for path in (photograph, folder, missing):
        assert get_reader(str(path)) is None
    assert get_reader([str(photograph)]) is None


def test_a_slide_is_one_multiscale_layer_in_micrometres(slide_path: Path) -> None:
    reader = get_reader(str(slide_path))
    assert reader is not None
    (data,) = reader(str(slide_path))
    layer = ViewerModel()._add_layer_from_data(*data)[0]
    assert layer.multiscale
    assert layer.rgb
    assert [level.shape for level in layer.data] == [(1500, 1900, 3), (750, 950, 3)]
    assert isinstance(layer.data[-1], np.ndarray)
    np.testing.assert_allclose(layer.scale, (0.5, 0.5))
    np.testing.assert_allclose(layer.translate, 0)
    assert str(layer.units[0]) == "micrometer"
    assert layer.axis_labels == ("y", "x")
    reference = reference_of_layer(layer)
    assert reference is not None
    assert (reference.source, reference.mpp) == (str(slide_path), (0.5, 0.5))


def test_a_slide_without_mpp_lies_in_pixels_until_it_is_stated(no_mpp_path: Path) -> None:
    from napari.utils.notifications import notification_manager

    viewer = ViewerModel()
    layer = viewer._add_layer_from_data(*read_slide(str(no_mpp_path))[0])[0]
    notice = notification_manager.records[-1].message
    assert "does not say its micrometres per pixel" in notice
    assert str(layer.units[0]) == "pixel"
    viewer.scene.camera.center, viewer.scene.camera.zoom = (0, 100.0, 200.0), 1.0
    state_mpp(viewer, layer, (0.25, 0.5))
    np.testing.assert_allclose(layer.scale, (0.25, 0.5))
    assert str(layer.units[0]) == "micrometer"
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], (25, 100))
    reference = reference_of_layer(layer)
    assert reference is not None
    assert reference.mpp == (0.25, 0.5)
    assert reference.mpp_stated


def test_stating_mpp_moves_nothing_once_something_is_drawn(no_mpp_path: Path) -> None:
    viewer = ViewerModel()
    layer = viewer._add_layer_from_data(*read_slide(str(no_mpp_path))[0])[0]
    viewer.add_shapes([[[0, 0], [0, 9], [9, 9]]], shape_type="polygon")
    state_mpp(viewer, layer, (0.25, 0.25))
    np.testing.assert_allclose(layer.scale, 1)


def test_a_large_single_level_gets_a_small_level_for_napari_to_hold(tmp_path: Path) -> None:
    path = tmp_path / "flat.tif"
    image = np.full((2304, 3072, 3), 200, np.uint8)
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, tile=(256, 256), photometric="rgb", compression="jpeg")
    levels = read_slide(str(path))[0][0]
    assert max(levels[-1].shape) <= 2048
    assert isinstance(levels[-1], np.ndarray)
    assert not isinstance(levels[0], np.ndarray)


def test_a_slide_opened_by_another_reader_is_recognised(slide_path: Path) -> None:
    from napari.layers._source import layer_source

    viewer = ViewerModel()
    with layer_source(path=str(slide_path), reader_plugin="another"):
        layer = viewer.add_image(np.zeros((1500, 1900, 3), np.uint8))
    plain = viewer.add_image(np.zeros((15, 19, 3), np.uint8))
    assert is_slide_layer(layer)
    assert not is_slide_layer(plain)
    reference = reference_of_layer(layer)
    assert reference is not None
    assert (reference.source, reference.known) == (str(slide_path), False)
    assert find_slide_layer(viewer.layers, str(slide_path)) is layer


def test_a_result_opens_as_maps_over_its_slide(finished: Any) -> None:
    assert get_reader(str(finished.path)) is read_run
    viewer = ViewerModel()
    layers = [viewer._add_layer_from_data(*data)[0] for data in read_run(str(finished.path))]
    assert [layer.name for layer in layers] == [
        "small",
        "small · attention",
        "small · tile score",
        "small · top tiles",
    ]
    np.testing.assert_array_equal(layers[2].data, finished.maps["tile-scores/all"])
    about = layers[2].metadata[METADATA_KEY]
    assert about["probabilities"] == finished.probabilities
    assert about["standing"] == f"all {finished.total} tissue tiles"


def test_a_result_opens_without_its_slide(finished: Any, tmp_path: Path) -> None:
    import json

    store = tmp_path / "orphan.wsixai.zarr"
    shutil.copytree(finished.path, store)
    attributes = json.loads((store / "zarr.json").read_text())
    attributes["attributes"]["napari_wsi_xai"]["slide"]["source"] = str(tmp_path / "gone.tif")
    (store / "zarr.json").write_text(json.dumps(attributes))
    names = [data[1]["name"] for data in read_run(str(store))]
    assert names == ["small · attention", "small · tile score", "small · top tiles"]


def test_real_slides_open_as_one_layer_each(shared_data: Path) -> None:
    for name in ("CMU-1-Small-Region.svs", "CMU-1-Small-Region.dicom", "😐.svs"):
        path = shared_data / "slides" / name
        reader = get_reader(str(path))
        assert reader is not None, name
        (data,) = reader(str(path))
        np.testing.assert_allclose(data[1]["scale"], 0.499, atol=1e-3)


def test_a_slide_whose_reads_fail_says_so_before_a_layer_is_made(shared_data: Path) -> None:
    path = str(shared_data / "slides" / "unreadable.svs")
    reader = get_reader(path)
    assert reader is not None
    with pytest.raises(SlideError, match="cannot be read"):
        reader(path)


def test_label_and_macro_images_only_on_request(shared_data: Path) -> None:
    viewer = ViewerModel()
    path = str(shared_data / "slides" / "CMU-1-Small-Region.svs")
    viewer._add_layer_from_data(*read_slide(path)[0])
    assert len(viewer.layers) == 1
    layers = show_associated_images(viewer)  # type: ignore[arg-type]
    names = {layer.name for layer in layers}
    assert {"CMU-1-Small-Region · label", "CMU-1-Small-Region · macro"} <= names
    right = viewer.layers[0].extent.world[1, 1]
    assert all(layer.extent.world[0, 1] > right for layer in layers)
    assert all(str(layer.units[0]) == "micrometer" for layer in layers)

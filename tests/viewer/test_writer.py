"""Saved results open again as what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_wsi_xai.errors import StoreError
from napari_wsi_xai.runs import open_run, score
from napari_wsi_xai.viewer.layers import add_layers
from napari_wsi_xai.viewer.reader import read_run
from napari_wsi_xai.viewer.writer import write_run


def tuples(layers: list[Any]) -> list[Any]:
    return [layer.as_layer_data_tuple() for layer in layers]


def assert_same(one: Any, other: Any) -> None:
    assert one.maps.keys() == other.maps.keys()
    for key in one.maps:
        np.testing.assert_array_equal(one.maps[key], other.maps[key])
    assert one.probabilities == other.probabilities
    np.testing.assert_array_equal(one.store.features[:], other.store.features[:])


def test_a_store_is_copied_whole(finished: Any, tmp_path: Path) -> None:
    layers = add_layers(ViewerModel(), finished)
    path = tmp_path / "copy.wsixai.zarr"
    assert write_run(str(path), tuples(layers[:1])) == [str(path)]
    assert_same(open_run(path), finished)
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_in_memory_is_written_out(
    slide_path: Path, model_path: Path, finished: Any, tmp_path: Path
) -> None:
    run = score(slide_path, model_path, precision="float32").compute()
    path = tmp_path / "memory.wsixai.zarr"
    write_run(str(path), tuples(add_layers(ViewerModel(), run)))
    assert_same(open_run(path), finished)
    assert len(read_run(str(path))) == 4


def test_saving_in_place_changes_nothing(finished: Any) -> None:
    layers = tuples(add_layers(ViewerModel(), finished))
    assert write_run(str(finished.path), layers) == [str(finished.path)]
    assert_same(open_run(finished.path), finished)


def test_other_layers_are_not_ours_to_write(tmp_path: Path) -> None:
    layer = ViewerModel().add_image(np.zeros((4, 4)))
    assert write_run(str(tmp_path / "x.wsixai.zarr"), tuples([layer])) == []
    assert not list(tmp_path.iterdir())


def test_results_of_two_runs_are_refused(
    slide_path: Path, other_model_path: Path, finished: Any, tmp_path: Path
) -> None:
    viewer = ViewerModel()
    other = score(slide_path, other_model_path, precision="float32").compute()
    layers = [*add_layers(viewer, finished), *add_layers(viewer, other)]
    with pytest.raises(StoreError, match="2 different runs"):
        write_run(str(tmp_path / "two.wsixai.zarr"), tuples(layers))


def test_what_is_there_is_not_overwritten(finished: Any, tmp_path: Path) -> None:
    layers = tuples(add_layers(ViewerModel(), finished))
    with pytest.raises(StoreError, match="exists already"):
        write_run(str(tmp_path), layers)

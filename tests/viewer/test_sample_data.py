"""The demo slide with its ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_wsi_xai.errors import RunError
from napari_wsi_xai.viewer import sample_data


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(sample_data, "SHAPE", (1024, 1024))
    monkeypatch.setattr(sample_data, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(sample_data, "_qt_runs", lambda: False)
    return tmp_path


def test_slide_and_outlines_lie_over_each_other_in_micrometres(small: Path) -> None:
    from napari_wsi_xai.annotations import read_geojson

    viewer = ViewerModel()
    slide, truth = [viewer._add_layer_from_data(*one)[0] for one in sample_data.demo_slide()]
    assert slide.name == "demo-slide"
    assert truth.name == "demo-slide · ground truth"
    assert str(truth.units[0]) == str(slide.units[0]) == "micrometer"
    polygons = [a.geometry for a in read_geojson(next(small.rglob("*.geojson")))]
    assert len(polygons) == truth.nshapes
    for index, polygon in enumerate(polygons):
        world = np.array([truth.data_to_world(vertex) for vertex in truth.data[index]])
        level0 = np.array([slide.world_to_data(point) for point in world]) + 0.5
        np.testing.assert_allclose(level0, np.array(polygon.exterior.coords)[:-1, ::-1], atol=1e-6)


def test_it_is_drawn_once(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample_data.demo_slide()
    monkeypatch.setattr(sample_data, "_draw", None)  # a second call would fail
    assert len(sample_data.demo_slide()) == 2


def test_a_failure_is_told_in_a_sentence(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(sample_data, "_draw", fail)
    with pytest.raises(RunError, match="the demo slide was not drawn: disk full"):
        sample_data.demo_slide()

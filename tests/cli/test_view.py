"""The command ``view``, up to the point where the window would stay open."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_wsi_xai.tiles import TileGrid
from napari_wsi_xai.training.epoch_store import EpochMap, EpochStore, StoredSlide
from napari_wsi_xai.training.figures import EpochFigures, SlideFigures


@pytest.fixture
def viewer(make_napari_viewer_proxy, monkeypatch):
    """The viewer that the command gets instead of a new one."""
    import napari

    made = make_napari_viewer_proxy()
    monkeypatch.setattr(napari, "Viewer", lambda: made)
    monkeypatch.setattr(napari, "run", lambda: None)
    return made


def test_slides_and_runs_open_as_layers(cli, viewer, shared_data, bundle, tmp_path):
    slide = shared_data / "slides" / "CMU-1-Small-Region.svs"
    scored = cli("score", slide, "--model", bundle, "--out", tmp_path, "--json")
    store = scored.json["results"][0]["store"]
    result = cli("view", slide, store)
    assert result.status == 0, result.err
    assert viewer.layers[0].multiscale
    maps = [layer for layer in viewer.layers[1:] if layer.name.startswith("CMU-1-Small-Region")]
    assert len(maps) >= 2
    assert len([layer for layer in viewer.layers if getattr(layer, "multiscale", False)]) == 1


def test_what_was_watched_in_training_opens_with_a_slider(cli, viewer, tmp_path):
    grid = TileGrid((4, 6), 64, 0.5, 64, (0, 0), (0.5, 0.5), 0, 1.0)
    slides = (StoredSlide("a", 1, (grid,)),)
    store = EpochStore.create_or_resume(tmp_path / "epochs.wsixai.zarr", slides, {})
    for number in range(3):
        maps = {"a": {"attention/all": EpochMap(np.full(grid.shape, number, np.float32))}}
        store.append(EpochFigures(number + 1, number, {}, {"a": SlideFigures()}), maps)
    result = cli("view", store.path)
    assert result.status == 0, result.err
    assert [layer.name for layer in viewer.layers] == ["a · attention · checks"]
    assert viewer.dims.nsteps[0] == 3
    assert viewer.canvas.overlays.text.text.startswith("epoch 3 of 3")
    viewer.dims.set_point(0, 1)
    assert viewer.canvas.overlays.text.text.startswith("epoch 1 of 3")
    viewer.dims.set_point(0, 3)
    assert viewer.layers[0].get_value((3, 32.0, 32.0), world=True) == 2


def test_a_damaged_store_of_a_training_is_told_before_a_window_opens(cli, tmp_path):
    path = tmp_path / "epochs.wsixai.zarr"
    path.mkdir()
    about = {"schema": 99, "kind": "epochs"}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"napari_wsi_xai": about}}
    (path / "zarr.json").write_text(json.dumps(group))
    result = cli("view", path)
    assert result.status == 1
    assert "schema 99" in result.err


def test_the_demo_is_shown_with_its_ground_truth(cli, viewer, tmp_path):
    result = cli("demo", "--size", "2000", "--out", tmp_path / "demo", "--view")
    assert result.status == 0, result.err
    names = [layer.name for layer in viewer.layers]
    assert names[0] == "demo"
    assert names[-1] == "demo · ground truth"
    assert len(viewer.layers[-1].data) > 0


@pytest.mark.parametrize("name", ["a.svs", "a.wsixai.zarr", "a.png"])
def test_what_cannot_be_shown_opens_no_window(cli, slide, tmp_path, monkeypatch, name):
    monkeypatch.setattr("napari.Viewer", lambda: pytest.fail("a window was opened"))
    (tmp_path / name).write_text("no slide")
    result = cli("view", slide, tmp_path / name)
    assert result.status == 1
    assert name in result.error


def test_no_display(cli, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    result = cli("view", "a.svs")
    assert result.status == 1
    assert "display" in result.error


def test_no_qt(cli, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "qtpy", None)
    result = cli("view", "a.svs")
    assert result.status == 1
    assert 'pip install "napari-wsi-xai[all]"' in result.error

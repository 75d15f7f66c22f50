"""The example that needs a window."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from napari_wsi_xai.viewer.reader import read_slide

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "napari_session.py"


def test_napari_session(
    make_napari_viewer_proxy: Callable[..., Any],
    slide_path: Path,
    model_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = importlib.util.spec_from_file_location("napari_session", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    viewer = make_napari_viewer_proxy()
    module.show(_Window(viewer), str(slide_path), str(model_path))
    names = [layer.name for layer in viewer.layers]
    assert names == ["small", "small · attention", "small · tile score", "small · top tiles"]
    assert "small · tile score: viridis, from" in capsys.readouterr().out


class _Window:
    """A viewer whose ``open`` asks this plugin's reader: plugins are not discovered in tests."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer

    def open(self, path: str, plugin: str) -> None:
        from napari.layers import Layer

        assert plugin == "napari-wsi-xai"
        self._viewer.add_layer(Layer.create(*read_slide(path)[0]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._viewer, name)

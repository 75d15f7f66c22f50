"""The manifest is valid, quick to import, and does what it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from npe2 import PluginManifest

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "src" / "napari_wsi_xai" / "napari.yaml"


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_file(MANIFEST)


def test_the_manifest_at_the_top_is_the_packages() -> None:
    assert (ROOT / "napari.yaml").resolve() == MANIFEST.resolve()


def test_every_command_exists(manifest: PluginManifest) -> None:
    manifest.validate_imports()
    assert all(
        command.id.startswith("napari-wsi-xai.")
        for command in manifest.contributions.commands or ()
    )


def test_commands_import_without_torch_or_a_network_library() -> None:
    code = f"""
import importlib, sys
from npe2 import PluginManifest
for command in PluginManifest.from_file({str(MANIFEST)!r}).contributions.commands:
    module, name = command.python_name.split(":")
    assert callable(getattr(importlib.import_module(module), name))
heavy = {{"torch", "torchvision", "openvino", "timm", "sklearn"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_widget_is_in_the_layers_menu(manifest: PluginManifest) -> None:
    items = manifest.contributions.menus["napari/layers/classify"]
    widgets = [widget.command for widget in manifest.contributions.widgets or ()]
    assert [item.command for item in items] == widgets == ["napari-wsi-xai.score_slide"]


def test_preferences_have_working_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from napari_wsi_xai.viewer import settings

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert settings.Settings() == settings.Settings("auto", "auto", "")
    assert settings.cache_folder(settings.Settings()) == tmp_path / "napari-wsi-xai"
    chosen = settings.Settings(cache_folder=str(tmp_path / "mine"))
    assert settings.cache_folder(chosen) == tmp_path / "mine"
    assert (tmp_path / "mine").is_dir()


def test_names_written_out_for_speed_are_those_of_the_models() -> None:
    from napari_wsi_xai.models import MIL_ARCHITECTURES
    from napari_wsi_xai.viewer.widgets.fields import HEADS

    assert set(HEADS) == set(MIL_ARCHITECTURES)

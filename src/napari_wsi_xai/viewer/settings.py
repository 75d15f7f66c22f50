"""What the user set for this plugin in napari's preferences (manifest: ``configurations``)."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Settings", "cache_folder", "read_settings"]

PLUGIN = "napari-wsi-xai"


@dataclass(frozen=True)
class Settings:
    """Preferences of this plugin.

    Attributes
    ----------
    device
        ``"auto"`` or a torch device name.
    precision
        ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    cache_folder
        Where results and the demo slide go; empty for the user's cache folder.
    """

    device: str = "auto"
    precision: str = "auto"
    cache_folder: str = ""


def read_settings() -> Settings:
    """Read the preferences; defaults where napari has none for this plugin."""
    try:
        from napari.settings import get_plugin_settings

        computing = get_plugin_settings(PLUGIN).computing
        return Settings(
            device=str(computing.device).strip() or "auto",
            precision=str(computing.precision),
            cache_folder=str(computing.cache_folder).strip(),
        )
    except (ImportError, KeyError, AttributeError):
        return Settings()


def cache_folder(settings: Settings | None = None) -> Path:
    """Folder for results that cannot stand beside their slide; created when first used.

    Parameters
    ----------
    settings
        Preferences; read from napari when omitted.
    """
    settings = settings or read_settings()
    folder = Path(settings.cache_folder).expanduser() if settings.cache_folder else _user_cache()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _user_cache() -> Path:
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"))
    return base / PLUGIN

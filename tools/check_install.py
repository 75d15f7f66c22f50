"""Fail unless the installed package starts lean and napari's plugin engine finds its manifest.

Run by the Python of a clean environment that holds only the wheel and its core dependencies.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def main() -> int:
    """Check and return 0, or raise AssertionError."""
    import napari_wsi_xai

    heavy = {"torch", "qtpy", "napari", "zarr"} & set(sys.modules)
    assert not heavy, f"import napari_wsi_xai imports {heavy}"
    for binding in ("PyQt5", "PyQt6", "PySide2", "PySide6"):
        assert importlib.util.find_spec(binding) is None, f"the core brings {binding}"
    package = Path(napari_wsi_xai.__file__).parent
    assert "site-packages" in package.parts, f"{package} is not the installed wheel"

    from npe2 import PluginManager

    plugins = PluginManager()
    plugins.discover(include_npe1=False)
    manifest = plugins.get_manifest("napari-wsi-xai")
    widgets = [widget.display_name for widget in manifest.contributions.widgets or []]
    assert widgets, "the manifest lists no widget"
    print(f"napari-wsi-xai {napari_wsi_xai.__version__}: manifest found, widgets {widgets}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

from __future__ import annotations

import subprocess
import sys

import pytest

import napari_wsi_xai


def python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LOADED = (
    "import sys; print(sorted({'torch', 'qtpy', 'napari', 'zarr', 'numpy', 'openslide', 'PyQt6'}"
    " & set(sys.modules)))"
)


def test_import_loads_nothing_heavy():
    assert python(f"import napari_wsi_xai; {LOADED}") == "[]"


def test_dir_and_version_load_nothing_heavy():
    code = f"import napari_wsi_xai as n; dir(n); n.__version__; {LOADED}"
    assert python(code) == "[]"


def test_slides_and_annotations_need_neither_torch_nor_napari():
    code = f"from napari_wsi_xai import open_slide, read_geojson, tile_grid, score; {LOADED}"
    loaded = python(code)
    assert "torch" not in loaded
    assert "napari" not in loaded
    assert "qtpy" not in loaded


@pytest.mark.parametrize("name", napari_wsi_xai.__all__)
def test_every_public_name_is_there(name):
    assert getattr(napari_wsi_xai, name) is not None
    assert name in dir(napari_wsi_xai)


def test_all_holds_every_name_of_every_room():
    lazy = set(napari_wsi_xai._ROOM_OF)
    assert lazy | {"__version__", "errors"} == set(napari_wsi_xai.__all__)
    assert sorted(napari_wsi_xai.__all__) == sorted(set(napari_wsi_xai.__all__))


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'scroe'"):
        napari_wsi_xai.scroe  # noqa: B018


def test_version_is_the_installed_one():
    from importlib.metadata import version

    assert napari_wsi_xai.__version__ == version("napari-wsi-xai")


def test_error_tree_has_one_root():
    errors = [getattr(napari_wsi_xai.errors, name) for name in napari_wsi_xai.errors.__all__]
    for error in errors:
        assert issubclass(error, napari_wsi_xai.WsiXaiError | napari_wsi_xai.WsiXaiWarning)
        if issubclass(error, napari_wsi_xai.WsiXaiError):
            assert error.exit_status in (1, 2)
            assert error.__name__ in napari_wsi_xai.errors.__doc__

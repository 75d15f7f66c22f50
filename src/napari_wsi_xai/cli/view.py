"""``view``: the only command that needs napari and Qt."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from napari_wsi_xai.cli import app
from napari_wsi_xai.errors import MissingExtraError, WsiXaiError

__all__ = ["open_window", "view"]


@app.command()
def view(
    paths: Annotated[
        list[str], typer.Argument(metavar="SLIDE|RUN...", help="Slides and result stores.")
    ],
) -> None:
    """Open slides and results in a napari window."""
    open_window(paths)


def open_window(paths: list[str], truth: tuple[Path, Path] | None = None) -> None:
    """Show slides and result stores in napari until its window is closed.

    Parameters
    ----------
    paths
        Slides and result stores, shown from the first upwards.
    truth
        A demo slide and its outlines, to lay on top.

    Raises
    ------
    WsiXaiError
        A path cannot be opened, Qt is not installed, or there is no display. Nothing is shown
        then.
    """
    from napari_wsi_xai.training import EpochStore
    from napari_wsi_xai.viewer.layers import add_layer_data
    from napari_wsi_xai.viewer.reader import get_reader, read_epochs, read_slide

    _require_window()
    # What is asked for by name is a slide, also where the reader would leave a file to others.
    readers = [get_reader(path) or read_slide for path in paths]
    for path, reader in zip(paths, readers, strict=True):
        if reader is read_epochs:
            EpochStore.open(path)
        else:
            _require_readable(path, is_slide=reader is read_slide)
    import napari

    viewer = napari.Viewer()
    for path, reader in zip(paths, readers, strict=True):
        for data in reader(path):
            add_layer_data(viewer, data)
    if truth is not None:
        from napari_wsi_xai.viewer.sample_data import truth_layer_data

        add_layer_data(viewer, truth_layer_data(*truth))
    napari.run()


def _require_window() -> None:
    """Complain in words where Qt would end the program without any."""
    try:
        import qtpy  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("PyQt6", "all", "The napari window") from error
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY")
        or os.environ.get("WAYLAND_DISPLAY")
        or os.environ.get("QT_QPA_PLATFORM")
    ):
        raise WsiXaiError(
            "There is no display to show a window on (DISPLAY is not set): run this on a desktop, "
            "or through ssh -X."
        )


def _require_readable(path: str, is_slide: bool) -> None:
    """Open a path and close it again: the place to complain is here, not in an empty window."""
    from napari_wsi_xai.runs import open_run
    from napari_wsi_xai.slides import open_slide

    if is_slide:
        open_slide(path).close()
    else:
        open_run(path)

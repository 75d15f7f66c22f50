"""``view``: the only command that needs napari and Qt."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from napari_wsi_xai.cli import app
from napari_wsi_xai.errors import BadArgumentError, MissingExtraError, WsiXaiError

__all__ = ["open_window", "view"]


@app.command()
def view(
    paths: Annotated[
        list[str], typer.Argument(metavar="SLIDE|RUN...", help="Slides and result stores.")
    ],
) -> None:
    """Open slides and results in a napari window."""
    open_window(paths)


def open_window(paths: list[str]) -> None:
    """Show slides and result stores in napari until its window is closed.

    Raises
    ------
    WsiXaiError
        A path cannot be opened, Qt is not installed, or there is no display. Nothing is shown
        then.
    """
    from napari_wsi_xai.viewer.reader import get_reader

    _require_window()
    for path in paths:
        if get_reader(path) is None:
            _explain(path)
    import napari

    viewer = napari.Viewer()
    for path in paths:
        viewer.open(path, plugin="napari-wsi-xai")
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


def _explain(path: str) -> None:
    """Raise what keeps a path from being opened as a slide."""
    from napari_wsi_xai.slides import open_slide

    open_slide(path).close()
    raise BadArgumentError(f"{path} is neither a slide nor a result store that can be shown.")

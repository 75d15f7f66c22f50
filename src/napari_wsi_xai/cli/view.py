"""``view``: the only command that needs napari and Qt."""

from __future__ import annotations

from typing import Annotated

import typer

from napari_wsi_xai.cli import app

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
    """Show slides and result stores in napari until its window is closed."""
    from napari_wsi_xai.viewer import show

    show(paths)

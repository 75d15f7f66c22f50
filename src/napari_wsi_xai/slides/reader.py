"""Reading pixels of an open backend, with every failure told as one sentence."""

from __future__ import annotations

from napari_wsi_xai.errors import SlideError, SlideReadError
from napari_wsi_xai.slides.backend import Backend, Description, Pixels, one_line

__all__ = ["Reader"]


class Reader:
    """Thread-safe access to the pixels of one open slide.

    Parameters
    ----------
    backend
        The open slide.
    name
        What error messages call it.
    """

    def __init__(self, backend: Backend, name: str) -> None:
        self.backend = backend
        self.name = name
        self.description: Description = backend.description
        self._closed = False

    def read(self, level: int, y: int, x: int, height: int, width: int) -> Pixels:
        """Pixels of a rectangle wholly inside ``level``, in pixels of that level.

        Raises
        ------
        SlideReadError
            The slide is closed, or the file's pixels cannot be decoded.
        """
        self._check_open()
        try:
            return self.backend.read(level, y, x, height, width)
        except Exception as error:
            raise SlideReadError(
                f"{self.name}: level {level}, rows {y} to {y + height}, columns {x} to "
                f"{x + width} cannot be read ({one_line(error)}): the file may be damaged."
            ) from error

    def read_associated(self, name: str) -> Pixels:
        """Decode an associated image."""
        self._check_open()
        try:
            return self.backend.read_associated(name)
        except (SlideError, KeyError):
            raise
        except Exception as error:
            raise SlideReadError(
                f"{self.name}: the {name} image cannot be read ({one_line(error)}): "
                "the file may be damaged."
            ) from error

    def close(self) -> None:
        """Let the files go; later reads raise :class:`SlideReadError`."""
        if not self._closed:
            self._closed = True
            self.backend.close()

    def _check_open(self) -> None:
        if self._closed:
            raise SlideReadError(f"{self.name} is closed: open it again with open_slide.")

"""Asks the scoring process what is in a file, and waits for the answer away from Qt's thread."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from qtpy.QtCore import QObject, QTimer, Signal

from napari_wsi_xai.viewer.process import examine_elsewhere

__all__ = ["Examination"]

PAUSE_MS = 250
"""A path that is being typed is examined once the keys have rested this long."""


class Examination(QObject):
    """Examines checkpoint files; only the answer for the file named last is told.

    Attributes
    ----------
    answered
        Signal with a ``CheckpointSummary`` or ``Failed``.
    """

    answered = Signal(object)
    _arrived = Signal(int, object)

    def __init__(self) -> None:
        super().__init__()
        self._number = 0
        self._path = Path()
        self._arrived.connect(self._receive)
        self._pause = QTimer(self)
        self._pause.setSingleShot(True)
        self._pause.setInterval(PAUSE_MS)
        self._pause.timeout.connect(self._begin)

    def ask(self, path: Path) -> None:
        """Examine this file soon; what was asked before is forgotten."""
        self.forget()
        self._path = path
        self._pause.start()

    def forget(self) -> None:
        """Tell nothing of what was asked before."""
        self._number += 1
        self._pause.stop()

    def _begin(self) -> None:
        arguments = (self._number, self._path)
        threading.Thread(target=self._work, args=arguments, daemon=True).start()

    def _work(self, number: int, path: Path) -> None:
        answer = examine_elsewhere(path)
        with suppress(RuntimeError):  # the widget is gone
            self._arrived.emit(number, answer)

    def _receive(self, number: int, answer: object) -> None:
        if number == self._number:
            self.answered.emit(answer)

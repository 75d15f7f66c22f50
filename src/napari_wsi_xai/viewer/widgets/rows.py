"""Rows of a form: a label of fixed width, then its field; texts that wrap; paths from fields."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import Container, FileEdit, Label
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtWidgets import QLabel, QSizePolicy

if TYPE_CHECKING:
    from magicgui.widgets.bases import Widget

__all__ = ["note", "path_in", "row", "wrap"]

LABEL_PX = 138
"""Width of the labels, so that fields stand in one column."""


def row(field: Widget) -> Container[Any]:
    """A field with its label before it; hovering the label tells what hovering the field tells."""
    label = Label(value=field.label, tooltip=field.tooltip)
    label.min_width = label.max_width = LABEL_PX
    line: Container[Any] = Container(widgets=[label, field], layout="horizontal", labels=False)
    line.margins = (0, 0, 0, 0)
    return line


def note(tooltip: str) -> Label:
    """A line of text that wraps, empty at first."""
    label = Label(value="", tooltip=tooltip)
    wrap(label.native)
    return label


def wrap(label: QLabel) -> None:
    """Let a Qt label break long sentences; they must not widen the dock."""
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    label.installEventFilter(_AllLines(label))


class _AllLines(QObject):
    """Keeps a label as high as its lines: layouts within layouts lose count of them."""

    def __init__(self, label: QLabel) -> None:
        super().__init__(label)
        self._fitted = ("", 0)

    def eventFilter(self, label: QObject, event: QEvent) -> bool:  # noqa: N802
        if event.type() in (QEvent.Type.Resize, QEvent.Type.Paint):
            assert isinstance(label, QLabel)
            shown = (label.text(), label.width())
            if shown != self._fitted:
                self._fitted = shown
                label.setMinimumHeight(0)  # it would count as lines
                label.setMinimumHeight(max(0, label.heightForWidth(label.width())))
        return False


def path_in(edit: FileEdit) -> Path | None:
    """Path in a file field; None where it is empty."""
    text = edit.line_edit.value.strip()
    return Path(text).expanduser() if text else None

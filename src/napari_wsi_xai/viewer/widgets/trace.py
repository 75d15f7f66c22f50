"""A column of sentences, each with an explanation as hover text."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from napari_wsi_xai.viewer.widgets.rows import wrap

__all__ = ["Sentences"]


class Sentences(QWidget):
    """Shows sentences one below the other; nothing where there are none."""

    def __init__(self) -> None:
        super().__init__()
        self._labels: list[QLabel] = []
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(2)
        self.setVisible(False)

    def show_sentences(self, sentences: Sequence[tuple[str, str]]) -> None:
        """Show these (sentence, explanation) in place of what was there."""
        while len(self._labels) < len(sentences):
            label = QLabel()
            wrap(label)
            self._column.addWidget(label)
            self._labels.append(label)
        for number, label in enumerate(self._labels):
            text, explanation = sentences[number] if number < len(sentences) else ("", "")
            label.setText(text)
            label.setToolTip(explanation)
            label.setVisible(bool(text))
        self.setVisible(bool(sentences))

    @property
    def text(self) -> str:
        """What is shown, a line a sentence."""
        return "\n".join(label.text() for label in self._labels if label.text())

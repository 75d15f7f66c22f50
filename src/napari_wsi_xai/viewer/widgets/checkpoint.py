"""The fields of an author's checkpoint: its file, what was recognised in it, what to choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from magicgui.widgets import ComboBox, Container, FileEdit

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.viewer.checkpoints import CheckpointSummary
from napari_wsi_xai.viewer.drain import Failed
from napari_wsi_xai.viewer.head_options import ARCHITECTURE_NAMES
from napari_wsi_xai.viewer.widgets.examination import Examination
from napari_wsi_xai.viewer.widgets.rows import note, path_in, row

__all__ = ["CheckpointFields"]

BEGIN = "Choose the weights that an author published, or that you trained with their code."

FOUND = "What was recognised in the file, or why it cannot be used."


class CheckpointFields(Container[Any]):
    """A file of weights; says in words what it holds as soon as one is named.

    Parameters
    ----------
    told
        Called when something new is known, or nothing any more.

    Attributes
    ----------
    summary
        What the file tells; None while it is not known.
    problem
        Why it is not, in a sentence.
    """

    def __init__(self, told: Callable[[], None]) -> None:
        self._told = told
        self.summary: CheckpointSummary | None = None
        self.problem = BEGIN
        self.file = FileEdit(
            label="Checkpoint",
            mode="r",
            filter="Checkpoints (*.pt *.pth *.ckpt *.safetensors *.bin);;All files (*)",
            nullable=True,
            tooltip="Weights of a trained head as its authors' code saves them: CLAM, DSMIL, "
            "TransMIL, ZoomMIL, xMIL,\nDTFD-MIL, ABMIL, CHOWDER and others (.pt, .pth, .ckpt, "
            ".safetensors).\nNothing inside is run: files with code in them are refused.",
        )
        self.found = note(FOUND)
        self.found.value = BEGIN
        self.architecture = ComboBox(
            label="Architecture",
            choices=[],
            tooltip="The file fits each of these: say which one its authors trained.",
        )
        self._which = row(self.architecture)
        super().__init__(widgets=[row(self.file), self.found, self._which], labels=False)
        self.margins = (0, 0, 0, 0)
        self._examination = Examination()
        self._examination.answered.connect(self._answered)
        self.file.changed.connect(self._file_changed)
        self.architecture.changed.connect(lambda _: self._told())

    def show_fields(self) -> None:
        """Show the choice between architectures only where there is one."""
        self._which.visible = self.summary is not None and len(self.summary.architectures) > 1

    @property
    def chosen(self) -> str:
        """The architecture; empty while it is not known."""
        if self.summary is None:
            return ""
        if len(self.summary.architectures) > 1:
            return str(self.architecture.value or self.summary.architectures[0])
        return self.summary.architectures[0]

    def require(self) -> CheckpointSummary:
        """What the file tells.

        Raises
        ------
        BadArgumentError
            Nothing: the message says why.
        """
        if self.summary is None:
            raise BadArgumentError(self.problem)
        return self.summary

    def _file_changed(self, _: Any = None) -> None:
        path = path_in(self.file)
        self._examination.forget()
        if path is None:
            self._say(BEGIN)
        elif not path.is_file():
            self._say(f"There is no file {path}.")
        else:
            self._say(f"Reading {path.name} …")
            self._examination.ask(path)

    def _answered(self, answer: CheckpointSummary | Failed) -> None:
        if isinstance(answer, Failed):
            self._say(answer.message[:1].upper() + answer.message[1:])
            return
        self.summary, self.problem = answer, ""
        self.found.value = f"Recognised: {answer.words}"
        self.found.tooltip = f"{FOUND}\nIts tensors are named as in {answer.source}."
        names = [(ARCHITECTURE_NAMES.get(name, name), name) for name in answer.architectures]
        self.architecture.choices = names
        self._told()

    def _say(self, message: str) -> None:
        self.summary, self.problem = None, message
        self.found.value = message
        self._told()

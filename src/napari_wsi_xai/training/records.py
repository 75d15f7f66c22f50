"""What a training leaves on disk after every epoch: its checkpoint, its log, its progress."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_wsi_xai.errors import MissingExtraError
from napari_wsi_xai.training.lightning_import import import_lightning

__all__ = ["EpochRecords", "ProgressReports", "TrainProgress", "write_atomically"]


@dataclass(frozen=True)
class TrainProgress:
    """How far a training has come.

    Attributes
    ----------
    epoch, epochs
        The epoch that is going on, from 1, and the most there can be; 0 before training begins.
    slides_done, slides_total
        Training slides of all epochs, those of earlier sessions included.
    eta_s
        Seconds left if no rule stops it before; None until an estimate is possible.
    figures
        The last row of the history; empty in the first epoch.
    before
        What is done before training begins, in words; empty from then on.
    """

    epoch: int
    epochs: int
    slides_done: int
    slides_total: int
    eta_s: float | None
    figures: dict[str, float]
    before: str = ""


class EpochRecords(import_lightning().callbacks.Checkpoint):  # type: ignore[misc]
    """Writes ``last.ckpt``, ``log.csv`` and TensorBoard events at the end of each epoch.

    As a checkpoint callback it comes after all others, so that it also keeps what they did.

    Parameters
    ----------
    folder
        Where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._board: Any = None

    @property
    def checkpoint(self) -> Path:
        """The file that a training goes on from."""
        return self.folder / "last.ckpt"

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Write the logs of what is gone on from, anew.

        Events of a killed session are dropped: TensorBoard tells which of two files is the later
        one by the second that they were begun in.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "train", "Training") from error
        place = self.folder / "tensorboard"
        for events in place.glob("events.out.tfevents.*"):
            events.unlink()
        self._board = SummaryWriter(str(place))
        for row in module.history:
            self._add(row)
        write_log(module.history, self.folder / "log.csv")

    def _add(self, row: dict[str, float]) -> None:
        for name, value in row.items():
            if name != "epoch":
                self._board.add_scalar(name, value, int(row["epoch"]))
        self._board.flush()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Write checkpoint and logs, the checkpoint first: the logs are made from its history."""
        for callback in trainer.callbacks:
            why = getattr(callback, "stopped_because", None)
            if why:
                module.stop(why)
        with write_atomically(self.checkpoint) as temporary:
            trainer.save_checkpoint(temporary)
        write_log(module.history, self.folder / "log.csv")
        self._add(module.history[-1])

    def teardown(self, trainer: Any, module: Any, stage: str) -> None:
        """Close the events."""
        if self._board is not None:
            self._board.close()


class ProgressReports(import_lightning().callbacks.Callback):  # type: ignore[misc]
    """Tells after every batch how far the training has come.

    Parameters
    ----------
    tell
        Is told.
    slides
        Bags of an epoch.
    together
        Bags of a batch; the last one of an epoch may have fewer.
    """

    def __init__(
        self, tell: Callable[[TrainProgress], None], slides: int, together: int = 1
    ) -> None:
        self.tell, self.slides, self.together = tell, slides, together
        self._begun = 0.0
        self._first = 0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Take the time of what this session does, and not of those before."""
        self._begun, self._first = time.monotonic(), module.epoch * self.slides

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        """Tell after a bag; with the time of validation in it from the second epoch on."""
        # Without validation the row of an epoch is there already when its last bag ends.
        ended = module.epoch > trainer.current_epoch
        here = min(self.slides, (trainer.fit_loop.batch_idx + 1) * self.together)
        self._tell(module, module.epoch * self.slides + (0 if ended else here))

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Tell after the validation of an epoch."""
        self._tell(module, module.epoch * self.slides)

    def _tell(self, module: Any, done: int) -> None:
        epochs = module.recipe.epochs
        total, here = epochs * self.slides, done - self._first
        spent = time.monotonic() - self._begun
        eta = spent / here * (total - done) if here > 0 else None
        figures = dict(module.history[-1]) if module.history else {}
        going_on = max(done - 1, 0) // self.slides + 1
        self.tell(TrainProgress(going_on, epochs, done, total, eta, figures))


def write_log(history: Sequence[dict[str, float]], path: Path) -> None:
    """One line an epoch; every number as Python writes it, so that equal runs give equal files."""
    names = list(dict.fromkeys(name for row in history for name in row))
    with write_atomically(path) as temporary, temporary.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(names)
        for row in history:
            lines.writerow([_written(name, row.get(name)) for name in names])


def _written(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if name == "epoch" else repr(float(value))


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes ``path`` when all is written."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

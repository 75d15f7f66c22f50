"""Where runs happen: a Python process of their own, kept between runs.

Threads would do, were it not for the interpreter lock: importing torch, tracing a network and
converting it for the processor hold it for up to half a second at a time, and the window stands
still. Measured with ``benchmarks/first_tiles.py``. In another process none of that reaches the
window, nor does running out of memory, and closing napari need not wait for anything.
"""

from __future__ import annotations

import atexit
import itertools
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from napari_wsi_xai.geometry import Region
from napari_wsi_xai.viewer.checkpoints import CheckpointSummary
from napari_wsi_xai.viewer.drain import Event, Failed, Finished
from napari_wsi_xai.viewer.requests import Cancel, Examine, Focus, Request, Score
from napari_wsi_xai.viewer.scoring import ScoreInputs

__all__ = ["ProcessRun", "examine_elsewhere", "start_process"]

_numbers = itertools.count(1)
_idle: list[_Process] = []
_all: list[_Process] = []
_lock = threading.Lock()


class _Process:
    """A scoring process and the two streams to it."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "napari_wsi_xai.viewer.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows: no console
        )
        self._writing = threading.Lock()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._child.poll() is None

    def ask(self, request: Request) -> None:
        """Send a request; a process that is gone is noticed by who reads its events."""
        assert self._child.stdin is not None
        try:
            with self._writing:
                pickle.dump(request, self._child.stdin, protocol=pickle.HIGHEST_PROTOCOL)
                self._child.stdin.flush()
        except OSError:
            return

    def next_event(self) -> Any:
        """Wait for the next event or answer; None where the process is gone."""
        assert self._child.stdout is not None
        try:
            event = pickle.load(self._child.stdout)
        except (EOFError, OSError, pickle.UnpicklingError, ValueError):
            return None
        return event

    def end(self) -> None:
        """End it at once; blocks are written whole or not at all, so nothing breaks."""
        if self.alive:
            self._child.terminate()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def start_process() -> None:
    """Have a process ready, so that its imports are done when *Score* is pressed."""
    with _lock:
        if not any(process.alive for process in _idle):
            _idle.append(_new())


def _new() -> _Process:
    process = _Process()
    _all.append(process)
    return process


def _take() -> _Process:
    with _lock:
        while _idle:
            process = _idle.pop()
            if process.alive:
                return process
        return _new()


def examine_elsewhere(path: Path) -> CheckpointSummary | Failed:
    """Have a scoring process say what is in a checkpoint file; waits for the answer."""
    process = _take()
    process.ask(Examine(path))
    answer: CheckpointSummary | Failed | None = process.next_event()
    if answer is None:
        return Failed(f"the process that read {path.name} ended unexpectedly: choose it again.")
    with _lock:
        _idle.append(process)
    return answer


@atexit.register
def _end_all() -> None:
    for process in _all:
        process.end()


class ProcessRun:
    """One run in a scoring process; :meth:`events` waits, the other methods do not.

    Parameters
    ----------
    inputs
        What to score, and how.
    """

    def __init__(self, inputs: ScoreInputs) -> None:
        self._number = next(_numbers)
        self._inputs = inputs
        self._process: _Process | None = None
        self._abandoned = False
        self._cancelled = False

    def events(self) -> Iterator[Event]:
        """Score; yields events as :func:`~napari_wsi_xai.viewer.drain.drain` does."""
        process = self._process = _take()
        process.ask(Score(self._number, self._inputs.in_memory()))
        if self._cancelled:
            self.cancel()
        while not self._abandoned:
            event: Event | None = process.next_event()
            if event is None:
                if self._abandoned:
                    return
                yield Failed(
                    "the scoring process ended unexpectedly, perhaps for want of memory; finished "
                    "tiles are kept: Score goes on from there."
                )
                return
            if isinstance(event, Finished | Failed):
                with _lock:
                    _idle.append(process)
            yield event
            if isinstance(event, Finished | Failed):
                return

    def cancel(self) -> None:
        """Stop after the forward pass under way."""
        self._cancelled = True
        if self._process is not None:
            self._process.ask(Cancel(self._number))

    def focus(self, region_level0: Region | None) -> None:
        """Do this rectangle of the slide first."""
        if self._process is not None:
            self._process.ask(Focus(self._number, region_level0))

    def abandon(self) -> None:
        """Stop at once, without a last word: the window is closing."""
        self._abandoned = True
        if self._process is not None:
            self._process.end()

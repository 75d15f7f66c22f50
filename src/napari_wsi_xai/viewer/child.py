"""The scoring process: ``python -m napari_wsi_xai.viewer.child``, started by the viewer.

Reads requests from standard input and writes events to what was standard output when it started,
both as a stream of pickles between a parent and its own child. It ends when the parent does.
"""

from __future__ import annotations

import importlib
import os
import pickle
import queue
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import IO, Any

from napari_wsi_xai.viewer.checkpoints import examine_checkpoint
from napari_wsi_xai.viewer.drain import Failed, Finished, RunControl, drain
from napari_wsi_xai.viewer.requests import Cancel, Examine, Focus, Request, Score

__all__ = ["main"]

NICENESS = 5
"""A third of the weight of a window that wants a processor at the same time (Linux)."""


def main() -> None:
    """Serve requests until standard input ends."""
    _be_polite()
    events = _take_output()
    waiting: queue.Queue[Score | Examine] = queue.Queue()
    controls: dict[int, RunControl] = {}
    threading.Thread(
        target=_listen, args=(sys.stdin.buffer, waiting, controls), daemon=True
    ).start()
    _import("napari_wsi_xai.models.bundle")
    _import("napari_wsi_xai.runs")
    threading.Thread(target=_import_torchvision, daemon=True).start()
    while True:
        request = waiting.get()
        if isinstance(request, Examine):
            _send(events, examine_checkpoint(request.path))
            continue
        _score(request, controls[request.number], events)
        del controls[request.number]


def _be_polite() -> None:
    """Let the window have a processor first: with all of them computing, it would wait."""
    with suppress(AttributeError, OSError):  # no such thing on Windows
        os.nice(NICENESS)


def _import(name: str) -> None:
    """Import before anything is asked for. A failure is not told: the run will, in its words."""
    with suppress(ImportError):
        importlib.import_module(name)


def _import_torchvision() -> None:
    """Have the networks ready: importing them takes longer than all else before a first tile."""
    with suppress(ImportError, RuntimeError):
        from napari_wsi_xai.models.torchvision_import import import_torchvision

        import_torchvision()


def _take_output() -> IO[bytes]:
    """The stream of events; whatever libraries print goes to standard error from now on."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return events


def _listen(
    requests: IO[bytes], waiting: queue.Queue[Score | Examine], controls: dict[int, RunControl]
) -> None:
    """Pass requests on as they come; end the process with the stream."""
    while True:
        try:
            request: Request = pickle.load(requests)
        except (EOFError, OSError, pickle.UnpicklingError):
            # The parent is gone. A block is whole or not there, so nothing needs tidying up.
            os._exit(0)
        if isinstance(request, Score):
            controls[request.number] = RunControl()
            waiting.put(request)
        elif isinstance(request, Examine):
            waiting.put(request)
        elif isinstance(request, Cancel) and request.number in controls:
            controls[request.number].cancel()
        elif isinstance(request, Focus) and request.number in controls:
            controls[request.number].focus(request.region_level0)


def _score(request: Score, control: RunControl, events: IO[bytes]) -> None:
    from napari_wsi_xai.viewer.scoring import plan_run

    ended = False
    for event in drain(partial(plan_run, request.inputs), control):
        _send(events, event)
        ended = isinstance(event, Finished | Failed)
    if not ended:
        _send(events, Failed("the run ended without a result: please report this."))


def _send(events: IO[bytes], event: Any) -> None:
    pickle.dump(event, events, protocol=pickle.HIGHEST_PROTOCOL)
    events.flush()


if __name__ == "__main__":
    main()

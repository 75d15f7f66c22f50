"""The loop that works a run off, told as a stream of picklable events. No Qt here."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_wsi_xai.errors import MissingMppError, RunError, WsiXaiError
from napari_wsi_xai.viewer.states import (
    AnyFacts,
    AnySnapshot,
    facts_of,
    first_snapshot,
    is_finished,
    milestone,
    snapshot_of,
)
from napari_wsi_xai.viewer.zoom_snapshot import magnification

if TYPE_CHECKING:
    from napari_wsi_xai.geometry import Region
    from napari_wsi_xai.runs import Progress
    from napari_wsi_xai.viewer.states import AnyRun

__all__ = ["Event", "Failed", "Finished", "Planned", "Preparing", "RunControl", "Stepped", "drain"]

MAPS_EVERY_S = 0.5
"""The MIL head runs again at most this often ..."""

MAPS_SHARE = 0.1
"""... and takes at most this share of the run's time, however large the bag has grown."""

STEPS_EVERY_S = 0.2
"""The window is told of progress at most this often."""


@dataclass(frozen=True)
class Preparing:
    """Something slow begins before the run proper: ``message`` says what."""

    message: str


@dataclass(frozen=True)
class Planned:
    """The run is planned: its layers can be made, empty or as far as an earlier session got."""

    facts: AnyFacts
    snapshot: AnySnapshot
    slide_shape: tuple[int, int]


@dataclass(frozen=True)
class Stepped:
    """Some tiles are done; ``snapshot`` is None where the maps have not changed.

    ``where`` is the magnification at hand, in words, for runs over several.
    """

    progress: Progress
    snapshot: AnySnapshot | None
    where: str = ""


@dataclass(frozen=True)
class Finished:
    """The run ended: complete, cancelled, or with its region done.

    ``note`` says what precision was used and why; ``loaded`` that nothing had to be computed.
    """

    snapshot: AnySnapshot | None
    cancelled: bool
    loaded: bool = False
    note: str = ""


@dataclass(frozen=True)
class Failed:
    """The run cannot go on; ``message`` is one sentence for the user."""

    message: str
    missing_mpp: bool = False


Event = Preparing | Planned | Stepped | Finished | Failed


class RunControl:
    """Steers a run from any thread, also before there is one: stop it, or say what to do first."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._run: AnyRun | None = None

    @property
    def asked(self) -> bool:
        """Whether somebody asked to stop."""
        return self._asked.is_set()

    def cancel(self) -> None:
        """Ask to stop after the forward pass under way."""
        self._asked.set()
        if self._run is not None:
            self._run.cancel()

    def focus(self, region_level0: Region | None) -> None:
        """Do this rectangle of the slide first."""
        if self._run is not None:
            self._run.focus(region_level0)

    def attach(self, run: AnyRun) -> None:
        """Pass requests on to ``run``, also one to stop that came earlier."""
        self._run = run
        if self.asked:
            run.cancel()


def drain(plan: Callable[[], Generator[str, None, AnyRun]], control: RunControl) -> Iterator[Event]:
    """Plan a run and work it off.

    Errors end the stream with :class:`Failed`; nothing is raised, so that whoever listens always
    has a sentence to show.

    Parameters
    ----------
    plan
        Generator function that yields messages and returns the run.
    control
        Steers the work.
    """
    try:
        yield Preparing("Starting")
        run = yield from _messages(plan(), control)
        if run is None:
            yield Finished(None, cancelled=True)
            return
        yield from _work_off(run, control)
    except WsiXaiError as error:
        yield Failed(_sentence(error), missing_mpp=isinstance(error, MissingMppError))
    except MemoryError:
        yield Failed("not enough memory: close other programs, or choose a smaller region.")
    except Exception as error:  # a fault of ours or of a library: still one sentence
        logging.getLogger(__name__).exception("scoring failed")
        yield Failed(f"unexpected {type(error).__name__}: {_sentence(error)}")


def _messages(
    steps: Generator[str, None, AnyRun], control: RunControl
) -> Generator[Event, None, AnyRun | None]:
    """Pass the plan's messages on; None where it was cancelled meanwhile."""
    while True:
        try:
            message = next(steps)
        except StopIteration as end:
            run: AnyRun = end.value
            return None if control.asked else run
        if control.asked:
            steps.close()
            return None
        yield Preparing(message)


def _work_off(run: AnyRun, control: RunControl) -> Iterator[Event]:
    facts = facts_of(run)
    finished = is_finished(run)
    if not finished and run.done:
        _update(run)
    yield Planned(facts, first_snapshot(run), run.slide.shape)
    if finished:
        yield Finished(snapshot_of(run), cancelled=False, loaded=True, note=run.note)
        return
    yield from _steps(run, control)
    if control.asked and run.done:
        _update(run)
    last = snapshot_of(run) if run.result is not None or milestone(run)[0] else None
    yield Finished(last, cancelled=control.asked, note=run.note)


def _steps(run: AnyRun, control: RunControl) -> Iterator[Event]:
    """Work; tell of progress now and then, and of what can be seen more rarely."""
    last_step = 0.0
    reached = milestone(run)
    maps_due = time.monotonic() + MAPS_EVERY_S if run.result is not None else 0.0
    for progress in run:
        # Iterating forgets an earlier request to stop, so it is attached after the first step.
        control.attach(run)
        now = time.monotonic()
        snapshot = None
        before, reached = reached, milestone(run)
        if reached != before and reached[0] == before[0] and not run.complete:
            snapshot = snapshot_of(run)  # maps that were just made
        elif progress.tiles_done and (now >= maps_due or reached != before) and not run.complete:
            snapshot = _update(run)
            maps_due = time.monotonic() + max(
                MAPS_EVERY_S, (time.monotonic() - now) * (1 / MAPS_SHARE - 1)
            )
        if snapshot is not None or now - last_step >= STEPS_EVERY_S:
            last_step = now
            where = "" if progress.mpp is None else magnification(progress.mpp)
            yield Stepped(progress, snapshot, where)


def _update(run: AnyRun) -> AnySnapshot | None:
    """Run the MIL head on what is there; None while no tile is usable."""
    try:
        run.update_maps()
    except RunError:
        return None
    return snapshot_of(run)


def _sentence(error: BaseException) -> str:
    """First line of an error's message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

"""Progress on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from napari_wsi_xai.cli.console import say

if TYPE_CHECKING:
    from napari_wsi_xai.runs import Progress

__all__ = ["ProgressDisplay", "duration"]

LINE_EVERY_S = 30.0
"""Seconds between two lines where standard error is a file or a pipe."""


def duration(seconds: float) -> str:
    """Return a time in the units people use: 8 s, 3 min 5 s, 2 h 10 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class ProgressDisplay:
    """Shows how far something called ``name`` has come; a context manager.

    Parameters
    ----------
    name
        What is being worked on.
    unit
        What is counted, in the plural.
    """

    def __init__(self, name: str, unit: str = "tiles") -> None:
        self.name = name
        self.unit = unit
        self._bar: Any = None
        self._level = 0
        self._next_line = time.monotonic() + LINE_EVERY_S

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def show(self, progress: Progress) -> None:
        """Show an event of a run; every magnification has a bar of its own, so none runs back."""
        if progress.level != self._level:
            self._level = progress.level
            self._close()
        self.count(progress.tiles_done, progress.tiles_total, details(progress))

    def count(self, done: int, total: int, words: str = "") -> None:
        """Show that ``done`` of ``total`` are done."""
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = self._new_bar(total)
            self._bar.n, self._bar.total = done, total
            self._bar.set_postfix_str(words)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            say(", ".join(filter(None, [f"{self.name}: {done} of {total} {self.unit}", words])))

    def note(self, text: str) -> None:
        """Print a line without tearing the bar."""
        if self._bar is not None:
            self._bar.clear()
        say(f"{self.name}: {text}")

    def _new_bar(self, total: int) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=total,
            desc=self.name,
            file=sys.stderr,
            dynamic_ncols=True,
            # The run's own rate and estimate are shown: tqdm's would count resumed tiles too.
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
            + self.unit
            + "{postfix}",
        )


def details(progress: Progress) -> str:
    """Return magnification, rate, reading share, time left and failures, as far as known."""
    parts = []
    if progress.mpp is not None:
        parts.append(f"{progress.mpp:g} um/px ({progress.level + 1} of {progress.levels})")
    if progress.tiles_per_s is not None:
        digits = ".3g" if progress.tiles_per_s < 999.5 else ".0f"
        parts.append(f"{progress.tiles_per_s:{digits}} tiles/s")
    busy = progress.read_s + progress.inference_s
    if busy > 0:
        parts.append(f"reading {progress.read_s / busy:.0%}")
    to_do = progress.tiles_total - progress.tiles_done + progress.tiles_ahead
    if progress.eta_s is not None and to_do:
        most = "at most " if progress.tiles_ahead else ""
        parts.append(f"{most}{duration(progress.eta_s)} left")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    return ", ".join(parts)

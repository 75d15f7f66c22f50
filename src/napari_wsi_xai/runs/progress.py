"""What a run tells while it works."""

from __future__ import annotations

import time
from dataclasses import dataclass

from napari_wsi_xai.runs.plan import BlockResult

__all__ = ["Progress", "ProgressMeter"]


@dataclass(frozen=True)
class Progress:
    """State of a run after a step.

    Attributes
    ----------
    tiles_done, tiles_total
        Selected tiles dealt with (failed ones included) and to be dealt with.
    blocks_done, blocks_total
        Likewise in blocks.
    tiles_per_s
        Rate of this session, tiles kept from an earlier one left out; None at first.
    read_s, inference_s
        Seconds this session spent on pixels (summed over reading threads) and in the encoder.
    eta_s
        Estimated seconds left; None while unknown.
    failed
        Tiles that could not be used so far.
    message
        What is being done, in words.
    level, levels, mpp
        Of a run over several magnifications: which one is at hand (0 the coarsest) of how many,
        and its micrometres per pixel. Tiles and blocks above are its own.
    tiles_ahead
        Most tiles that finer magnifications can still take.
    """

    tiles_done: int
    tiles_total: int
    blocks_done: int
    blocks_total: int
    tiles_per_s: float | None
    read_s: float
    inference_s: float
    eta_s: float | None
    failed: int
    message: str
    level: int = 0
    levels: int = 1
    mpp: float | None = None
    tiles_ahead: int = 0

    @property
    def read_share(self) -> float:
        """Share of the work's time that went into reading, 0 to 1."""
        spent = self.read_s + self.inference_s
        return self.read_s / spent if spent > 0 else 0.0


class ProgressMeter:
    """Counts blocks as they finish."""

    def __init__(self, tiles_total: int, blocks_total: int) -> None:
        self.tiles_total = tiles_total
        self.blocks_total = blocks_total
        self.tiles_done = self.blocks_done = self.failed = 0
        self._kept = 0
        self._read_s = self._inference_s = 0.0
        self._start: float | None = None

    def keep(self, tiles: int, blocks: int, failed: int) -> None:
        """Count what an earlier session has finished."""
        self._kept = self.tiles_done = tiles
        self.blocks_done = blocks
        self.failed = failed

    def start(self) -> None:
        """The first block is being read: the clock runs from here."""
        self._start = time.perf_counter()

    def add(self, result: BlockResult) -> None:
        """Count a finished block."""
        self.tiles_done += result.tiles
        self.blocks_done += 1
        self.failed += len(result.failures)
        self._read_s += result.read_s
        self._inference_s += result.inference_s

    def now(self, message: str) -> Progress:
        """The state at this moment."""
        rate = left = None
        fresh = self.tiles_done - self._kept
        if self._start is not None and fresh > 0:
            rate = fresh / max(time.perf_counter() - self._start, 1e-9)
            left = (self.tiles_total - self.tiles_done) / rate
        return Progress(
            self.tiles_done,
            self.tiles_total,
            self.blocks_done,
            self.blocks_total,
            rate,
            self._read_s,
            self._inference_s,
            left,
            self.failed,
            message,
        )

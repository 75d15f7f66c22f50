"""What a run over several magnifications read, opened and left alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["LevelTrace", "ZoomTrace"]


@dataclass(frozen=True)
class LevelTrace:
    """The account of one magnification, in tiles.

    Attributes
    ----------
    mpp
        Micrometres per pixel.
    tiles
        How many an exhaustive run reads: all descendants of the coarsest tissue tiles.
    read
        How many were read so far, failed ones included.
    failed
        Of these, how many could not be used.
    looked
        How many the MIL head took into account.
    opened
        Of these, how many were looked into at the next magnification; 0 at the finest.
    skipped
        How many are never read, because no tile around them was opened.
    """

    mpp: float
    tiles: int
    read: int = 0
    failed: int = 0
    looked: int = 0
    opened: int = 0
    skipped: int = 0

    @property
    def share(self) -> float:
        """Tiles read by the tiles of an exhaustive run, 0 to 1."""
        return self.read / self.tiles if self.tiles else 0.0


@dataclass(frozen=True)
class ZoomTrace:
    """The account of a run over several magnifications.

    Attributes
    ----------
    levels
        One :class:`LevelTrace` a magnification, coarse to fine.
    exhaustive
        Whether every tile of every magnification is read.
    left_out
        Tiles that were read but not used because a coarser tile around them failed.
    tissue_left_out
        Share of the tissue's area, 0 to 1, in coarsest tiles with less tissue than the minimum: it
        is not looked at, at any magnification.
    """

    levels: tuple[LevelTrace, ...]
    exhaustive: bool
    left_out: int = 0
    tissue_left_out: float = 0.0

    @property
    def tiles(self) -> int:
        """Tiles that an exhaustive run reads."""
        return sum(level.tiles for level in self.levels)

    @property
    def read(self) -> int:
        """Tiles read so far."""
        return sum(level.read for level in self.levels)

    @property
    def share(self) -> float:
        """Tiles read by the tiles of an exhaustive run, 0 to 1."""
        return self.read / self.tiles if self.tiles else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, shares included; :meth:`from_dict` gives the trace back."""
        levels = [{**asdict(level), "share": level.share} for level in self.levels]
        totals = {"tiles": self.tiles, "read": self.read, "share": self.share}
        return {
            "levels": levels,
            "exhaustive": self.exhaustive,
            "left_out": self.left_out,
            "tissue_left_out": self.tissue_left_out,
            **totals,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ZoomTrace:
        """The trace of :meth:`to_dict`."""
        levels = (
            LevelTrace(**{key: value for key, value in level.items() if key != "share"})
            for level in values["levels"]
        )
        outside = float(values.get("tissue_left_out", 0.0))
        return cls(tuple(levels), bool(values["exhaustive"]), int(values["left_out"]), outside)

"""Compressed tiles on disk, in the order they came."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["TileSpool"]


class TileSpool:
    """Compressed tiles of one level, row by row, on disk until the level's turn comes."""

    def __init__(self) -> None:
        self.file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the writer
        self.lengths: list[int] = []

    def append(self, tile: bytes) -> None:
        """Put a tile behind the others."""
        self.file.write(tile)
        self.lengths.append(len(tile))

    def __iter__(self) -> Iterator[bytes]:
        self.file.seek(0)
        for length in self.lengths:
            yield self.file.read(length)

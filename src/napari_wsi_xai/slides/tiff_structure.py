"""Whether a TIFF's directories are all there: truncated copies must not pass for poorer slides.

A TIFF cut short often still opens, without its last pages: without its pyramid, its metadata or
its micrometres per pixel. So the chain of directories is followed first.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from napari_wsi_xai.errors import UnsupportedSlideError

__all__ = ["check_directories"]

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
TYPE_BYTES |= {16: 8, 17: 8, 18: 8}
DIRECTORY_LIMIT = 100_000


def check_directories(path: Path) -> None:
    """Follow the main chain of directories of a TIFF or BigTIFF and look where each value lies.

    Raises
    ------
    UnsupportedSlideError
        A directory or a value in one lies beyond the end of the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            _follow(file, size)
        except struct.error as error:
            raise _cut_short(size) from error


def _cut_short(size: int, needed: int | None = None) -> UnsupportedSlideError:
    wants = f" and needs at least {needed:,}" if needed is not None else ""
    return UnsupportedSlideError(
        f"the TIFF is cut short, it has {size:,} bytes{wants}: copy it again"
    )


def _follow(file: BinaryIO, size: int) -> None:
    head = file.read(8)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    # (count of entries, one entry: tag, type, count, offset of the next directory)
    count_code, entry_code, next_code = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    entry_size = struct.calcsize(order + entry_code)
    inline = 8 if big else 4
    offset = struct.unpack(order + next_code, file.read(8) if big else head[4:8])[0]
    seen: set[int] = set()
    while offset and offset not in seen and len(seen) < DIRECTORY_LIMIT:
        seen.add(offset)
        if offset > size:
            raise _cut_short(size, offset)
        file.seek(offset)
        (entries,) = struct.unpack(order + count_code, file.read(struct.calcsize(count_code)))
        table = file.read(min(entries, size // entry_size + 1) * entry_size)
        for _, kind, count, value in struct.iter_unpack(order + entry_code, table):
            length = TYPE_BYTES.get(kind, 0) * count
            if length > inline:
                end = length + struct.unpack(order + next_code, value)[0]
                if end > size:
                    raise _cut_short(size, end)
        offset = struct.unpack(order + next_code, file.read(struct.calcsize(next_code)))[0]

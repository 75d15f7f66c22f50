"""Names in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["listed"]

MOST = 5
"""Names told before the others are counted."""


def listed(names: Sequence[object]) -> str:
    """The first names and how many more there are: ``"a, b, c, d, e and 7 more"``."""
    told = ", ".join(str(name) for name in names[:MOST])
    more = len(names) - MOST
    return f"{told} and {more} more" if more > 0 else told

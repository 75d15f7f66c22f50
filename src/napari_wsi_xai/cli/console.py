"""What the command line prints, and where."""

from __future__ import annotations

import json
import logging
import math
import sys
import warnings
from typing import Annotated, Any

import typer

from napari_wsi_xai.errors import WsiXaiError, WsiXaiWarning

__all__ = [
    "INTERRUPTED",
    "JsonOption",
    "complain",
    "describe",
    "emit_json",
    "exit_status",
    "only_own_messages",
    "say",
]

INTERRUPTED = 130
"""Exit status after Ctrl-C or SIGTERM, as shells have it."""

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON for other programs on standard output.")
]


def say(message: str) -> None:
    """Print a line for people on standard error."""
    print(f"napari-wsi-xai: {message}", file=sys.stderr, flush=True)


def complain(message: str) -> None:
    """Print an error, in one line, on standard error."""
    say(f"error: {' '.join(message.split())}")


def exit_status(error: Exception) -> int | None:
    """Exit status for an error that one line explains; ``None`` for one that is a bug."""
    if isinstance(error, WsiXaiError):
        return error.exit_status
    return 1 if isinstance(error, OSError | MemoryError) else None


def describe(error: Exception) -> str:
    """Say in one line what went wrong."""
    if isinstance(error, WsiXaiError):
        return str(error)
    if isinstance(error, MemoryError):
        return "memory ran out; close other programs or use a smaller batch."
    if isinstance(error, OSError) and error.strerror:
        place = error.filename2 or error.filename
        return f"{error.strerror}: {place}" if place else error.strerror
    return f"{type(error).__name__}: {error}"


def emit_json(data: Any) -> None:
    """Print one JSON document on standard output; NaN, which JSON lacks, becomes null."""
    print(json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False), flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # a NumPy or torch scalar
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


class _Lines(logging.Handler):
    """Prints this package's log records as lines like all others."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower()}: {record.getMessage()}")


def only_own_messages() -> None:
    """Keep warnings and log records of libraries off standard error.

    What they complain about either becomes an error of ours, in one line, or does not matter.
    """
    logging.getLogger().addHandler(logging.NullHandler())
    own = logging.getLogger("napari_wsi_xai")
    if not any(isinstance(handler, _Lines) for handler in own.handlers):
        own.addHandler(_Lines(logging.WARNING))
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    if issubclass(category, WsiXaiWarning):
        say(f"warning: {message}")

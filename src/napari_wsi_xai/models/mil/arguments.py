"""Checks of what heads are made with, and words for what they are given."""

from __future__ import annotations

from collections.abc import Sized
from numbers import Real
from operator import index
from typing import Any

from torch import Tensor

from napari_wsi_xai.errors import BadArgumentError

__all__ = ["check_share", "check_whole", "described"]


def check_whole(least: int, **values: Any) -> None:
    """Whole numbers or lists of them, all at least ``least``, else a ``BadArgumentError``."""
    for name, value in values.items():
        given = list(value) if isinstance(value, list | tuple) else value
        try:
            numbers = [index(one) for one in (given if isinstance(given, list) else [given])]
        except TypeError:
            kind = "whole numbers, each" if isinstance(given, list) else "a whole number,"
            raise BadArgumentError(f"{name}={given!r} must be {kind} at least {least}.") from None
        if any(number < least for number in numbers):
            raise BadArgumentError(f"{name}={given} must be at least {least}.")


def check_share(**values: Any) -> None:
    """Numbers from 0 to 1, else a ``BadArgumentError``."""
    for name, value in values.items():
        if not (isinstance(value, Real) and 0 <= float(value) <= 1):
            raise BadArgumentError(f"{name}={value!r} must be from 0 to 1.")


def described(thing: object) -> str:
    """Type and size of what does not fit, as in ``of type ndarray, shape (9, 12),``."""
    kind = f"of {thing.dtype}" if isinstance(thing, Tensor) else f"of type {type(thing).__name__}"
    shape = getattr(thing, "shape", None)
    if shape is not None:
        return f"{kind}, shape {tuple(shape)},"
    if isinstance(thing, Sized) and not isinstance(thing, str):
        return f"{kind}, length {len(thing)},"
    return kind

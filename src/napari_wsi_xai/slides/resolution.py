"""Micrometres per pixel: from the user, from units, from TIFF resolution tags. Never guessed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.geometry import Mpp

__all__ = ["mpp_from_file", "mpp_from_resolution", "mpp_from_user", "unit_um"]

USER_LIMITS_UM = (0.01, 100.0)
# Scanners lie between 0.1 and 1; overviews reach 20. Printing resolutions (72 dpi is 353 um,
# 1 dpi is 25400 um) that image software writes by default lie far outside.
TIFF_LIMITS_UM = (0.05, 20.0)
TIFF_UNIT_UM = {2: 25400.0, 3: 10000.0}

_UNITS_UM = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "decimeter": 1e5,
    "meter": 1e6,
    "picometer": 1e-6,
    "inch": 25400.0,
    "foot": 304800.0,
    "yard": 914400.0,
}
_SHORT_UNITS = {
    "å": "angstrom",
    "nm": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",
    "μm": "micrometer",
    "micron": "micrometer",
    "microns": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    "pm": "picometer",
    "in": "inch",
}


def unit_um(unit: str | None) -> float | None:
    """Micrometres per ``unit`` of length, ``None`` for an unknown or missing unit."""
    name = (unit or "").strip().lower()
    name = _SHORT_UNITS.get(name, name)
    if name.endswith("metre"):
        name = name[:-2] + "er"
    return _UNITS_UM.get(name)


def mpp_from_user(mpp: float | Sequence[float]) -> Mpp:
    """Check what the user stated: one number for both axes, or (y, x).

    Raises
    ------
    BadArgumentError
        Not one or two numbers, or outside 0.01 to 100 micrometres per pixel.
    """
    try:
        values = [float(v) for v in mpp] if isinstance(mpp, Sequence) else [float(mpp)] * 2
    except (TypeError, ValueError):
        values = []
    if len(values) != 2 or isinstance(mpp, str):
        raise BadArgumentError(
            f"mpp={mpp!r} is neither a number nor a pair (y, x): give micrometres per pixel."
        )
    low, high = USER_LIMITS_UM
    if not all(low <= v <= high for v in values):
        raise BadArgumentError(
            f"mpp={mpp!r} is outside {low} to {high:g} micrometres per pixel: "
            "0.25 is usual for a 40x scan and 0.5 for a 20x scan."
        )
    return values[0], values[1]


def mpp_from_file(y_um: float | None, x_um: float | None) -> Mpp | None:
    """Pair of positive finite numbers, or ``None`` where either is missing or meaningless.

    Rounded to nine digits: the forms of one slide write 0.499 in different ways, and their grids
    are to be equal, not nearly so.
    """
    if y_um is None or x_um is None:
        return None
    if not all(math.isfinite(v) and v > 0 for v in (y_um, x_um)):
        return None
    return float(f"{y_um:.9g}"), float(f"{x_um:.9g}")


def mpp_from_resolution(
    y_per_unit: float | None, x_per_unit: float | None, unit: int | None
) -> Mpp | None:
    """Micrometres per pixel from TIFF tags YResolution, XResolution and ResolutionUnit.

    ``None`` unless the unit is inch or centimetre and both values lie in 0.05 to 20 um: the tags
    often hold a printing resolution such as 72 dpi.
    """
    size_um = TIFF_UNIT_UM.get(unit or 0)
    if size_um is None or not y_per_unit or not x_per_unit:
        return None
    pair = mpp_from_file(size_um / y_per_unit, size_um / x_per_unit)
    low, high = TIFF_LIMITS_UM
    return pair if pair and all(low <= v <= high for v in pair) else None

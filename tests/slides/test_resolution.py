"""Units and resolution tags to micrometres per pixel."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.slides.resolution import (
    mpp_from_file,
    mpp_from_resolution,
    mpp_from_user,
    unit_um,
)


@given(st.floats(0.051, 19.9), st.floats(0.051, 19.9), st.sampled_from([(2, 25400), (3, 10000)]))
def test_tags_round_trip(y_um: float, x_um: float, unit: tuple[int, int]) -> None:
    code, size_um = unit
    assert mpp_from_resolution(size_um / y_um, size_um / x_um, code) == pytest.approx((y_um, x_um))


@pytest.mark.parametrize(
    ("y", "x", "unit"),
    [
        (72, 72, 2),
        (96, 96, 2),
        (300, 300, 2),
        (1, 1, 2),
        (0, 0, 3),
        (None, 40000, 3),
        (40000, 40000, 1),
        (40000, 40000, None),
        (1e9, 1e9, 3),
        (40000, 72, 3),
    ],
)
def test_tags_that_mean_nothing(y: float | None, x: float | None, unit: int | None) -> None:
    assert mpp_from_resolution(y, x, unit) is None


@pytest.mark.parametrize("value", [0.0, -0.5, math.inf, math.nan, None])
def test_values_that_mean_nothing(value: float | None) -> None:
    assert mpp_from_file(0.5, value) is None
    assert mpp_from_file(value, 0.5) is None


def test_values_of_the_user() -> None:
    assert mpp_from_user(0.5) == (0.5, 0.5)
    assert mpp_from_user([0.25, 1]) == (0.25, 1.0)
    assert mpp_from_user(0.01) == (0.01, 0.01)
    with pytest.raises(BadArgumentError, match=r"0\.01 to 100"):
        mpp_from_user(400)


def test_units_by_all_their_names() -> None:
    same = {unit_um(u) for u in ("micrometer", "micrometre", "Micrometer", " µm ", "μm", "um")}
    assert same == {1.0}
    assert unit_um("centimetre") == unit_um("cm") == 1e4
    assert unit_um("angstrom") == unit_um("Å") == 1e-4
    assert unit_um("") is None
    assert unit_um(None) is None
    assert unit_um("furlong") is None

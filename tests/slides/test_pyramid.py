"""Planned levels and the area mean."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.slides.pyramid import halve, plan_levels


@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_halving_is_the_area_mean(height: int, width: int, random: object) -> None:
    rng = np.random.default_rng(random.randrange(2**32))  # type: ignore[attr-defined]
    pixels = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
    rows = [min(i, height - 1) for i in range(height + height % 2)]
    columns = [min(i, width - 1) for i in range(width + width % 2)]
    full = pixels[:, rows][:, :, columns].astype(float)
    want = full.reshape(3, len(rows) // 2, 2, len(columns) // 2, 2).mean(axis=(2, 4))
    np.testing.assert_array_equal(halve(pixels), np.floor(want + 0.5))


def test_plan_fills_steep_steps() -> None:
    plan = plan_levels(((40000, 30000), (10000, 7500), (625, 469)), (1.0, 4.0, 16.0 * 4))
    assert [(lv.source, lv.downsample) for lv in plan] == [
        (0, 1.0),
        (1, 4.0),
        (None, 8.0),
        (None, 16.0),
        (2, 64.0),
    ]
    single = plan_levels(((5000, 1),), (1.0,))
    assert [lv.shape for lv in single] == [(5000, 1), (2500, 1), (1250, 1), (625, 1)]

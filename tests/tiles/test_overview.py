from __future__ import annotations

import numpy as np
import pytest

from napari_wsi_xai.slides import open_slide
from napari_wsi_xai.tiles import overview, read_overview


def test_overview_averages_level_0(textured_slide, monkeypatch):
    monkeypatch.setattr(overview, "STRIP_PIXELS", 50_000)  # many strips, no seams
    with open_slide(textured_slide) as slide:
        picture = read_overview(slide, downsample=12)
        assert picture.downsample == 12
        assert picture.image.shape == (100, 125, 3)
        level0 = np.asarray(slide.levels[0][:], dtype=float)
        mean = level0.reshape(100, 12, 125, 12, 3).mean(axis=(1, 3))
        assert np.abs(picture.image - mean).max() <= 2  # one rounding a level


@pytest.mark.parametrize("max_px", [100, 333, 4000])
def test_no_side_exceeds_the_limit(textured_slide, max_px):
    with open_slide(textured_slide) as slide:
        picture = read_overview(slide, max_px=max_px)
        assert max(picture.image.shape) <= max_px
        height, width = (n * picture.downsample for n in picture.image.shape[:2])
        assert 1200 - picture.downsample <= height <= 1200
        assert 1500 - picture.downsample <= width <= 1500

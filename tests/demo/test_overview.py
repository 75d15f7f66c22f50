"""The picture: colours mean what the bar says, tiles lie where they are."""

from __future__ import annotations

import numpy as np

from napari_wsi_xai.demo.overview import VIRIDIS, _overlaid, score_colours
from napari_wsi_xai.tiles import TileGrid


def test_colours_end_where_the_limits_are_and_get_lighter():
    colours = score_colours(np.linspace(-2, 3, 50), (-2, 3))
    assert tuple(colours[0]) == VIRIDIS[0]
    assert tuple(colours[-1]) == VIRIDIS[-1]
    luminance = colours @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > 0).all()
    np.testing.assert_array_equal(score_colours([-9, 9], (-2, 3)), [VIRIDIS[0], VIRIDIS[-1]])


def test_each_tile_is_painted_over_its_own_pixels_only():
    grid = TileGrid((2, 3), 10, 0.5, 10, (20, 40), (0.5, 0.5), 0, 1.0)
    tile_map = np.full((2, 3), np.nan, dtype=np.float32)
    tile_map[1, 2] = 1.0
    picture = np.full((30, 50, 3), 200, dtype=np.uint8)  # 2 level-0 pixels a pixel
    painted = _overlaid(picture, 2.0, tile_map, grid, (0.0, 1.0))
    rows, columns = np.nonzero((painted != 200).any(axis=2))
    assert (rows.min(), rows.max() + 1) == (15, 20)
    assert (columns.min(), columns.max() + 1) == (30, 35)

"""Pictures of the tiles that a head looks at most."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_wsi_xai.errors import WsiXaiWarning
from napari_wsi_xai.slides import open_slide
from napari_wsi_xai.tiles import tile_grid
from napari_wsi_xai.training import thumbnails
from napari_wsi_xai.training.stored_slide import StoredSlide
from napari_wsi_xai.training.thumbnails import MOST_THUMBNAILS, THUMBNAIL_PX, TopTiles

CELLS = ((1, 2), (0, 0), (2, 3), (1, 1), (0, 3), (2, 0), (2, 1))


@pytest.fixture
def place(tmp_path: Path, write_slide: Callable[..., Path]) -> StoredSlide:
    """Noise of 3 x 4 tiles of 192 px."""
    rgb = np.random.default_rng(0).integers(0, 256, (600, 800, 3)).astype(np.uint8)
    path = write_slide(tmp_path / "a.ome.tif", rgb)
    with open_slide(path) as slide:
        grid = tile_grid(slide, 192, 0.5)
    return StoredSlide("a", 1, (grid,), str(path))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tiles that were read, in the order of reading."""
    read: list[str] = []
    plain = thumbnails.read_tiles

    def counted(slide: Any, grid: Any, cells: Any) -> Any:
        read.extend(cells)
        return plain(slide, grid, cells)

    monkeypatch.setattr(thumbnails, "read_tiles", counted)
    return read


def pixels(place: StoredSlide, row: int, column: int) -> np.ndarray:
    """A tile, averaged over 2 x 2 pixels by hand."""
    with open_slide(str(place.source)) as slide:
        tile = slide.read_region((row * 192, column * 192), (192, 192), 0).astype(float)
    return tile.reshape(96, 2, 96, 2, 3).mean(axis=(1, 3))


def test_the_best_tiles_in_their_order(place: StoredSlide) -> None:
    shown = TopTiles(place).look(CELLS)
    assert shown is not None
    assert shown.dtype == np.uint8
    assert shown.shape == (MOST_THUMBNAILS, THUMBNAIL_PX, THUMBNAIL_PX, 3)
    for picture, cell in zip(shown, CELLS, strict=False):
        assert np.abs(picture - pixels(place, *cell)).max() <= 0.5


def test_a_tile_is_read_once_while_it_stays(place: StoredSlide, opened: list[Any]) -> None:
    tiles = TopTiles(place)
    first = tiles.look(CELLS[:5])
    np.testing.assert_array_equal(tiles.look(CELLS[:5]), first)
    assert opened == list(CELLS[:5])
    other = tiles.look((CELLS[4], CELLS[5], *CELLS[:3]))
    assert opened == list(CELLS[:6])
    assert first is not None
    assert other is not None
    np.testing.assert_array_equal(other[[0, 2, 3, 4]], first[[4, 0, 1, 2]])
    tiles.look(CELLS[3:4])
    assert opened == [*CELLS[:6], CELLS[3]]  # it had left


def test_white_where_there_are_fewer(place: StoredSlide) -> None:
    shown = TopTiles(place).look(CELLS[:2])
    assert shown is not None
    assert (shown[2:] == 255).all()
    assert np.ptp(shown[1]) > 100
    none = TopTiles(place).look(())
    assert none is not None
    assert (none == 255).all()


def test_no_slide_no_pictures(place: StoredSlide, opened: list[Any]) -> None:
    for source in (None, "/nowhere/a.svs"):
        tiles = TopTiles(replace(place, source=source))
        assert tiles.look(CELLS) is None
        assert tiles.look(CELLS[1:]) is None
    assert opened == []


def test_a_slide_that_is_gone_for_a_while_is_told_once(place: StoredSlide) -> None:
    tiles = TopTiles(place)
    tiles.look(CELLS[:1])
    away = shutil.move(str(place.source), f"{place.source}.away")
    with pytest.warns(WsiXaiWarning, match="thumbnails of a are missing"):
        shown = tiles.look(CELLS[:3])
    assert shown is not None
    assert np.abs(shown[0] - pixels_at(away, CELLS[0])).max() <= 0.5
    assert (shown[1:] == 255).all()
    again = tiles.look(CELLS[1:3])
    assert again is not None
    assert (again == 255).all()
    shutil.move(away, str(place.source))
    back = tiles.look(CELLS[1:3])
    assert back is not None
    assert np.abs(back[0] - pixels(place, *CELLS[1])).max() <= 0.5


def pixels_at(path: str, cell: tuple[int, int]) -> np.ndarray:
    """The same of a file elsewhere."""
    import tifffile

    row, column = cell
    tile = tifffile.imread(path)[row * 192 : row * 192 + 192, column * 192 : column * 192 + 192]
    return tile.astype(float).reshape(96, 2, 96, 2, 3).mean(axis=(1, 3))


def test_micrometres_that_the_user_stated(tmp_path: Path, write_slide: Callable[..., Path]) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    path = write_slide(tmp_path / "b.ome.tif", rgb, mpp=None)
    with open_slide(path, mpp=0.25) as slide:
        grid = tile_grid(slide, 96, 0.25)
    place = StoredSlide("b", 0, (grid,), str(path), mpp_stated=True)
    shown = TopTiles(place).look(((1, 0),))
    assert shown is not None
    np.testing.assert_array_equal(shown[0], rgb[96:192, :96])

"""OpenSlide: bounds, transparency, a second life after errors, and the faster way to pixels."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from napari_wsi_xai.errors import SlideReadError
from napari_wsi_xai.geometry import Region
from napari_wsi_xai.slides import open_slide
from napari_wsi_xai.slides.backend import composite
from napari_wsi_xai.slides.openslide_backend import (
    OpenSlideBackend,
    _background,
    _bounds,
    _comparable,
)


def corner(path: Path, level: int, height: int, width: int) -> np.ndarray:
    """First pixels of a level as OpenSlide's own public call gives them."""
    with openslide.OpenSlide(path) as handle:
        return np.asarray(handle.read_region((0, 0), level, (width, height)))[..., :3]


@pytest.mark.parametrize(
    ("name", "levels"), [("CMU-1-Small-Region.svs", 1), ("TCGA-CR-7395-01A-01-TS1.svs", 2)]
)
def test_stored_tiles_are_bit_equal_to_openslide(slides: Path, name: str, levels: int) -> None:
    """JPEG and JPEG 2000 SVS: the fast way is taken, and gives the same bits."""
    backend = OpenSlideBackend(slides / name)
    for level in range(levels):
        height, width = (min(n, 1700) for n in backend.description.levels[level].shape)
        got = backend.read(level, 0, 0, height, width)
        assert backend._proved == dict.fromkeys(range(level + 1), True)
        np.testing.assert_array_equal(got, corner(slides / name, level, height, width))


def test_without_stored_tiles_openslide_reads(slides: Path) -> None:
    backend = OpenSlideBackend(slides / "CMU-1-Small-Region.svs")
    fast = backend.read(0, 300, 400, 500, 600)
    backend._tiles = None
    np.testing.assert_array_equal(backend.read(0, 300, 400, 500, 600), fast)


def test_tiles_that_come_out_otherwise_are_not_used(
    cmu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = OpenSlideBackend(cmu)
    tiles = backend._tiles
    assert tiles is not None
    read = tiles.read
    monkeypatch.setattr(tiles, "read", lambda *a: read(*a) ^ 1)
    np.testing.assert_array_equal(backend.read(0, 0, 0, 100, 100), corner(cmu, 0, 100, 100))
    assert backend._proved == {0: False}


@pytest.mark.parametrize("step", [1.0, 2.0, 4.000123, 2.0005055, 3.3])
@pytest.mark.parametrize("extent", [1, 100, 5000, 100_000])
def test_compared_tile_is_one_openslide_does_not_interpolate(step: float, extent: int) -> None:
    start, length = _comparable(extent, 240, step)
    assert 0 <= start < extent
    assert 1 <= length <= min(240, extent - start)
    assert start % 240 == 0
    assert abs(round(start * step) / step - start) < 1e-3


def test_bounds_of_a_leica_scan(scn: Path, noise: np.ndarray) -> None:
    """A 300 x 420 scan at (100, 200) on a slide of twice its size."""
    with open_slide(scn) as slide:
        assert slide.vendor == "leica"
        assert slide.shape == (600, 840)
        assert slide.bounds == Region(100, 200, 300, 420)
        assert slide.mpp == pytest.approx((0.5, 0.5))
        got = slide.read_region(slide.bounds.origin, slide.bounds.shape)
        np.testing.assert_array_equal(got, noise)
        around = slide.read_region((90, 190), (320, 440))
        around[10:310, 10:430] = 255
        assert (around == 255).all()


def test_missing_tile_takes_the_background(svs_with_gap: Path, noise: np.ndarray) -> None:
    backend = OpenSlideBackend(svs_with_gap)
    for colour in ((255, 255, 255), (240, 12, 77)):
        backend.description = replace(backend.description, background=colour)
        want = noise.copy()
        want[:128, 128:256] = colour
        np.testing.assert_array_equal(backend.read(0, 0, 0, *noise.shape[:2]), want)


def test_public_call_gives_the_same(svs_with_gap: Path, noise: np.ndarray) -> None:
    """Where the binding hides its region call, the public one is used."""
    backend = OpenSlideBackend(svs_with_gap)
    backend.description = replace(backend.description, background=(1, 200, 30))
    one = backend.read(0, 0, 0, *noise.shape[:2])
    handle = PublicOnly(backend._handle)
    backend._handle = handle
    np.testing.assert_array_equal(one, backend.read(0, 0, 0, *noise.shape[:2]))
    assert handle.calls == 1


class PublicOnly:
    """An OpenSlide handle that offers its public region call and nothing else."""

    def __init__(self, handle: openslide.OpenSlide) -> None:
        self._handle = handle
        self.calls = 0

    def read_region(self, *args: object) -> object:
        self.calls += 1
        return self._handle.read_region(*args)


def test_composite_is_the_rounded_mean() -> None:
    """Every alpha and colour against exact fractions."""
    alpha, colour = (a.astype(np.uint8) for a in np.mgrid[0:256, 0:256])
    rgb = np.repeat(colour[..., None], 3, axis=2)
    background = np.array([0, 100, 255])
    weight = alpha[..., None] / 255
    exact = rgb * weight + (1 - weight) * background
    straight = composite(rgb, alpha, (0, 100, 255), premultiplied=False)
    assert np.abs(straight - exact).max() <= 0.5 + 1e-9
    multiplied = np.rint(rgb * weight).astype(np.uint8)
    again = composite(multiplied, alpha, (0, 100, 255), premultiplied=True)
    assert np.abs(again - exact).max() <= 1 + 1e-9


def test_handle_comes_back_after_an_error(noise: np.ndarray, tmp_path: Path) -> None:
    """One broken tile: its reads fail with the reason, all others go on before and after."""
    path = tmp_path / "hurt.svs"
    text = (
        "Aperio Image Library v11.2.1 \r\n420x300 [0,0 420x300] (64x64) JPEG/RGB Q=90"
        "|AppMag = 20|MPP = 0.25"
    )
    tifffile.imwrite(
        path,
        noise,
        tile=(64, 64),
        compression="jpeg",
        photometric="rgb",
        description=text,
        metadata=None,
    )
    good = corner(path, 0, 300, 420)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[8]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 40)
    with open_slide(path) as slide:
        assert slide.backend == "openslide"
        for _ in range(2):
            with pytest.raises(SlideReadError, match=r"level 0, rows 70 to 80.*damaged"):
                slide.read_region((70, 70), (10, 10))
            np.testing.assert_array_equal(slide.read_region((128, 0), (172, 420)), good[128:])


def test_dicom_reads_in_full(slides: Path) -> None:
    with open_slide(slides / "CMU-1-Small-Region.dicom") as slide:
        first = next((slides / "CMU-1-Small-Region.dicom").iterdir())
        np.testing.assert_array_equal(
            slide.read_region((0, 0), slide.shape), corner(first, 0, *slide.shape)
        )


@pytest.mark.parametrize(
    ("text", "colour"),
    [("FFFFFF", (255, 255, 255)), ("0a0B10", (10, 11, 16)), ("#102030", (16, 32, 48))],
)
def test_background_colour(text: str, colour: tuple[int, int, int]) -> None:
    assert _background({"openslide.background-color": text}) == colour
    assert _background({"openslide.background-color": "teal"}) == (255, 255, 255)
    assert _background({}) == (255, 255, 255)


@pytest.mark.parametrize(
    ("values", "region"),
    [
        (("10", "20", "30", "40"), Region(10, 20, 30, 40)),
        (("-5", "0", "1000", "1000"), Region(0, 0, 100, 200)),
        (("200", "0", "10", "10"), Region(0, 0, 100, 200)),
        (("x", "0", "10", "10"), Region(0, 0, 100, 200)),
    ],
)
def test_bounds_stay_inside(values: tuple[str, ...], region: Region) -> None:
    names = ("y", "x", "height", "width")
    properties = {f"openslide.bounds-{n}": v for n, v in zip(names, values, strict=True)}
    assert _bounds(properties, (100, 200)) == region


def test_printing_resolution_is_no_mpp(slides: Path) -> None:
    """boxes.tiff says 28.3 pixels per centimetre, which is 72 dpi."""
    assert OpenSlideBackend(slides / "boxes.tiff").description.mpp is None
    with open_slide(slides / "boxes.tiff") as slide:
        assert slide.mpp is None


def test_file_gone_before_reopening(cmu: Path, tmp_path: Path) -> None:
    """A handle lost to an error cannot come back once the file is gone: still one clear error."""
    path = tmp_path / "a.svs"
    shutil.copy(cmu, path)
    slide = open_slide(path)
    backend = slide._reader.backend
    backend._tiles = None
    backend._handle = None
    path.unlink()
    with pytest.raises(SlideReadError, match="cannot be read"):
        slide.read_region((0, 0), (10, 10))

"""TIFFs of every layout, written by the tests themselves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_wsi_xai.errors import UnsupportedSlideError
from napari_wsi_xai.slides import open_slide, tiff_tiles
from napari_wsi_xai.slides.tiff_tiles import TileCache


def write(path: Path, image: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, image, **{"photometric": "rgb", "metadata": None, **options})
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (64, 80)},
        {"tile": (64, 64), "compression": "deflate", "predictor": True},
        {"tile": (128, 128), "compression": "lzw"},
        {"tile": (64, 64), "compression": "zstd", "bigtiff": True},
        {"tile": (64, 64), "byteorder": ">"},
        {"tile": (512, 512), "compression": "deflate"},
        {"rowsperstrip": 7},
        {"rowsperstrip": 16, "compression": "deflate"},
        {"rowsperstrip": 300},
        {"tile": (64, 64), "compression": "jpeg2000", "compressionargs": {"reversible": True}},
    ],
)
def test_lossless_layouts(tmp_path: Path, noise: np.ndarray, options: dict[str, Any]) -> None:
    with open_slide(write(tmp_path / "a.tif", noise, **options)) as slide:
        assert slide.backend == "tifffile"
        np.testing.assert_array_equal(slide.read_region((0, 0), slide.shape), noise)
        np.testing.assert_array_equal(slide.read_region((61, 77), (70, 90)), noise[61:131, 77:167])
        np.testing.assert_array_equal(slide.levels[0][:], noise)


@pytest.mark.parametrize("options", [{"tile": (64, 64), "compression": "deflate"}, {}])
def test_planes_apart(tmp_path: Path, noise: np.ndarray, options: dict[str, Any]) -> None:
    planes = np.ascontiguousarray(noise.transpose(2, 0, 1))
    path = write(tmp_path / "p.tif", planes, planarconfig="separate", **options)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region((0, 0), slide.shape), noise)


def test_jpeg_equals_tifffile(tmp_path: Path, noise: np.ndarray) -> None:
    path = write(tmp_path / "j.tif", noise, tile=(64, 64), compression="jpeg")
    with open_slide(path) as slide:
        whole = slide.read_region((0, 0), slide.shape)
    np.testing.assert_array_equal(whole, tifffile.imread(path))


@pytest.mark.parametrize(("kind", "premultiplied"), [("unassalpha", False), ("assocalpha", True)])
def test_alpha_over_white(
    tmp_path: Path, noise: np.ndarray, kind: str, premultiplied: bool
) -> None:
    alpha = np.random.default_rng(1).integers(0, 256, noise.shape[:2], dtype=np.uint8)
    weight = alpha[..., None] / 255
    colour = np.rint(noise * weight).astype(np.uint8) if premultiplied else noise
    path = write(tmp_path / "a.tif", np.dstack([colour, alpha]), extrasamples=[kind], tile=(64, 64))
    front = colour if premultiplied else colour * weight
    want = front + (1 - weight) * 255
    with open_slide(path) as slide:
        got = slide.read_region((0, 0), slide.shape)
    assert np.abs(got - want).max() <= 0.5 + 1e-6


def test_fourth_sample_that_is_no_alpha_is_dropped(tmp_path: Path, noise: np.ndarray) -> None:
    image = np.dstack([noise, np.zeros(noise.shape[:2], np.uint8)])
    path = write(tmp_path / "x.tif", image, extrasamples=["unspecified"], tile=(64, 64))
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region((0, 0), slide.shape), noise)


def test_tile_left_out_is_background(tmp_path: Path, noise: np.ndarray) -> None:
    path = write(tmp_path / "g.tif", noise, tile=(64, 64), compression="deflate")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page = tiff.pages[0]
        page.tags[325].overwrite([0 if i == 8 else v for i, v in enumerate(page.databytecounts)])
    want = noise.copy()
    want[64:128, 64:128] = 255
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region((0, 0), slide.shape), want)


def test_pyramid_of_sub_ifds_and_of_pages(tmp_path: Path, noise: np.ndarray) -> None:
    half = noise[::2, ::2]
    for name, sub in (("sub.tif", 1), ("pages.tif", 0)):
        with tifffile.TiffWriter(tmp_path / name) as tiff:
            options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
            tiff.write(noise, subifds=sub, **options)
            tiff.write(half, subfiletype=1, **options)
        with open_slide(tmp_path / name) as slide:
            assert slide.downsamples == (1.0, 2.0)
            np.testing.assert_array_equal(
                slide.read_region((20, 40), (50, 60), 1), half[10:60, 20:80]
            )


@pytest.mark.parametrize(
    ("image", "options", "words"),
    [
        (np.zeros((64, 64, 3), np.uint16), {}, "16-bit"),
        (np.zeros((64, 64), np.uint8), {"photometric": "minisblack"}, "1 x 8-bit"),
        (np.zeros((5, 64, 64), np.uint8), {"photometric": "minisblack"}, "5 planes"),
        (np.zeros((64, 64, 3), np.float32), {}, "float32"),
        (np.zeros((64, 64, 4), np.uint8), {"photometric": "separated"}, "SEPARATED"),
        (np.zeros((64, 64, 3), bool), {}, "1-bit"),
    ],
)
def test_what_is_not_rgb_is_refused(
    tmp_path: Path, image: np.ndarray, options: dict[str, Any], words: str
) -> None:
    path = write(tmp_path / "f.tif", image, **{"metadata": {}, **options})
    with pytest.raises(UnsupportedSlideError, match=words) as error:
        open_slide(path)
    assert "8-bit RGB" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [
        ((40000, 20000), "CENTIMETER", (0.5, 0.25)),
        ((101600, 101600), "INCH", (0.25, 0.25)),
        ((72, 72), "INCH", None),
        ((1, 1), "CENTIMETER", None),
        ((40000, 40000), "NONE", None),
    ],
)
def test_resolution_tags(
    tmp_path: Path,
    noise: np.ndarray,
    resolution: tuple[float, float],
    unit: str,
    mpp: tuple[float, float] | None,
) -> None:
    path = write(
        tmp_path / "r.tif", noise, tile=(64, 64), resolution=resolution, resolutionunit=unit
    )
    with open_slide(path) as slide:
        assert slide.mpp == (pytest.approx(mpp) if mpp else None)
        assert slide.mpp_source == ("file" if mpp else None)


@pytest.mark.parametrize(
    ("unit", "size", "um"), [("µm", 0.25, 0.25), ("nm", 250, 0.25), ("mm", 0.0005, 0.5)]
)
def test_ome_units(tmp_path: Path, noise: np.ndarray, unit: str, size: float, um: float) -> None:
    path = tmp_path / "o.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit}
    metadata |= {"PhysicalSizeY": 2 * size, "PhysicalSizeYUnit": unit}
    write(path, noise, tile=(64, 64), metadata=metadata)
    with open_slide(path) as slide:
        assert slide.vendor == "ome"
        assert slide.mpp == pytest.approx((2 * um, um))


def test_largest_image_is_the_slide_and_others_are_associated(
    tmp_path: Path, noise: np.ndarray
) -> None:
    path = tmp_path / "s.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(noise[:50, :60], photometric="rgb", metadata={"axes": "YXS", "Name": "Label"})
        tiff.write(noise, photometric="rgb", metadata={"axes": "YXS", "Name": "Scan"})
    with open_slide(path) as slide:
        assert slide.shape == noise.shape[:2]
        assert slide.associated_sizes == {"label": (50, 60)}
        np.testing.assert_array_equal(slide.associated_images["label"], noise[:50, :60])


def test_qptiff(tmp_path: Path, noise: np.ndarray) -> None:
    """Brightfield QPTIFF: RGB levels, a thumbnail, and the resolution in its tags."""
    text = (
        '<?xml version="1.0" encoding="utf-8"?><PerkinElmer-QPI-ImageDescription>'
        "<DescriptionVersion>2</DescriptionVersion><ImageType>{}</ImageType>"
        "</PerkinElmer-QPI-ImageDescription>"
    )
    path = tmp_path / "q.qptiff"
    options: dict[str, Any] = {
        "photometric": "rgb",
        "metadata": None,
        "software": "PerkinElmer-QPI",
        "resolution": (20000, 20000),
        "resolutionunit": "CENTIMETER",
    }
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(noise, tile=(64, 64), description=text.format("FullResolution"), **options)
        tiff.write(noise[::4, ::4], description=text.format("Thumbnail"), **options)
        tiff.write(
            noise[::2, ::2],
            tile=(64, 64),
            subfiletype=1,
            description=text.format("ReducedResolution"),
            **options,
        )
    with open_slide(path) as slide:
        assert slide.vendor == "perkinelmer"
        assert slide.mpp == pytest.approx((0.5, 0.5))
        assert slide.downsamples == (1.0, 2.0)
        np.testing.assert_array_equal(slide.read_region((0, 0), slide.shape), noise)


def test_each_tile_is_decoded_once(
    tmp_path: Path, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "c.tif", noise, tile=(64, 64), compression="deflate")
    slide = open_slide(path)
    (page,) = slide._reader.backend._tiles._pages
    decoded: list[int] = []
    decode = page._decode
    monkeypatch.setattr(
        page, "_decode", lambda data, i, **k: decoded.append(i) or decode(data, i, **k)
    )
    for y in range(0, 300, 50):
        slide.read_region((y, 0), (50, 420))
    assert sorted(decoded) == list(range(5 * 7))


def test_cache_drops_the_longest_unused() -> None:
    cache = TileCache(capacity_bytes=3 * 300)
    tiles = {i: np.full((10, 10, 3), i, np.uint8) for i in range(4)}
    for i in range(3):
        cache.put((0, i), tiles[i])
    cache.get((0, 0))
    cache.put((0, 3), tiles[3])
    assert cache.get((0, 1)) is None
    assert all(cache.get((0, i)) is tiles[i] for i in (0, 2, 3))
    cache.put((1, 0), np.zeros((100, 100, 3), np.uint8))
    assert cache.get((1, 0)) is not None, "one tile stays, however large"
    assert cache.get((0, 3)) is None


def test_a_file_is_closed_also_where_the_interpreter_ends_first(tmp_path, monkeypatch):
    """Modules have lost their names by then."""
    (tmp_path / "a").write_bytes(b"pixels")
    file = tiff_tiles._File(tmp_path / "a")
    descriptor = file._descriptor
    with monkeypatch.context() as patch:
        patch.setattr(tiff_tiles, "os", None)
        file.__del__()
    del file._descriptor
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)

"""Reading regions: the same pixels by every way, from every thread and process."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_wsi_xai.errors import BadArgumentError, SlideReadError
from napari_wsi_xai.slides import Slide, open_slide, slide_info

FORMS = [
    "CMU-1-Small-Region.svs",
    "CMU-1-Small-Region.dicom",
    "CMU-1-Small-Region.pyramid.ome.tif",
    "CMU-1-Small-Region_v0.5.ome.zarr",
    "TCGA-CR-7395-01A-01-TS1.svs",
    "boxes.tiff",
    "😐.svs",
]


@pytest.fixture(scope="module", params=FORMS)
def slide(request: pytest.FixtureRequest, slides: Path) -> Slide:
    return open_slide(slides / request.param)


def padded(slide: Slide, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
    """What read_region has to give, made from the level's Zarr array."""
    rows, columns = slide.level_shapes[level]
    want = np.full((height, width, 3), slide.background, dtype=np.uint8)
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + height, rows), min(x + width, columns)
    if top < bottom and left < right:
        part = slide.levels[level][top:bottom, left:right]
        want[top - y : bottom - y, left - x : right - x] = part
    return want


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_rectangle_equals_the_padded_level(slide: Slide, data: st.DataObject) -> None:
    level = data.draw(st.integers(0, len(slide.downsamples) - 1))
    rows, columns = slide.level_shapes[level]
    height = data.draw(st.integers(0, 300))
    width = data.draw(st.integers(0, 300))
    y = data.draw(st.integers(-height - 20, rows + 20))
    x = data.draw(st.integers(-width - 20, columns + 20))
    step = slide.downsamples[level]
    origin = (round(y * step), round(x * step))
    got = slide.read_region(origin, (height, width), level)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, padded(slide, level, y, x, height, width))


def test_levels_are_zarr_arrays(slide: Slide) -> None:
    for array, shape in zip(slide.levels, slide.level_shapes, strict=True):
        assert array.shape == (*shape, 3)
        assert array.dtype == np.uint8
        assert array.read_only
        assert max(array.chunks[:2]) <= 1024
        assert array.chunks[2] == 3


def test_non_integer_level_is_exact(slides: Path) -> None:
    """Level 1 of this file is 2.0005 coarser: OpenSlide itself would interpolate."""
    import tifffile

    path = slides / "TCGA-CR-7395-01A-01-TS1.svs"
    with tifffile.TiffFile(path) as tiff:
        want = tiff.series[0].levels[1].asarray()
    with open_slide(path) as slide:
        assert slide.downsamples == (1.0, 2.0005055500659967)
        np.testing.assert_array_equal(
            slide.read_level(1, 500, 700, 300, 301), want[500:800, 700:1001]
        )
        np.testing.assert_array_equal(slide.levels[1][900:1000, 3:8], want[900:1000, 3:8])


def test_pickles_as_its_source(slides: Path) -> None:
    slide = open_slide(slides / "boxes.tiff", mpp=0.5)
    again = pickle.loads(pickle.dumps(slide))
    assert (again.source, again.mpp, again.mpp_source) == (slide.source, (0.5, 0.5), "user")
    np.testing.assert_array_equal(
        again.read_region((3, 5), (90, 80)), slide.read_region((3, 5), (90, 80))
    )
    level = pickle.loads(pickle.dumps(slide.levels[1]))
    np.testing.assert_array_equal(level[:], slide.levels[1][:])


def test_eight_threads_read_what_one_reads(slide: Slide) -> None:
    rng = np.random.default_rng(0)
    rows, columns = slide.shape
    last = len(slide.downsamples) - 1
    asked = [
        ((int(rng.integers(0, rows)), int(rng.integers(0, columns))), (200, 150), i % 2 * last)
        for i in range(32)
    ]
    serial = [slide.read_region(*a) for a in asked]
    fresh = open_slide(slide.source)
    with ThreadPoolExecutor(8) as pool:
        regions = list(pool.map(lambda a: fresh.read_region(*a), asked))
        slices = list(pool.map(lambda a: padded(fresh, a[2], 5, 7, 60, 50), asked))
    for one, other in zip(serial, regions, strict=True):
        np.testing.assert_array_equal(one, other)
    for part, (_, _, level) in zip(slices, asked, strict=True):
        np.testing.assert_array_equal(part, padded(slide, level, 5, 7, 60, 50))


def test_closed_slide_says_so(slides: Path) -> None:
    with open_slide(slides / "boxes.tiff") as slide:
        slide.read_region((0, 0), (4, 4))
    slide.close()
    with pytest.raises(SlideReadError, match="is closed"):
        slide.read_region((0, 0), (4, 4))


def test_bad_arguments(slides: Path) -> None:
    slide = open_slide(slides / "boxes.tiff")
    with pytest.raises(BadArgumentError, match="give 0 to 3"):
        slide.read_region((0, 0), (4, 4), level=4)
    with pytest.raises(BadArgumentError, match="negative"):
        slide.read_region((0, 0), (-4, 4))
    with pytest.raises(BadArgumentError, match="exceed level 1"):
        slide.read_level(1, 100, 100, 30, 10)


def test_associated_images_are_decoded_only_on_access(
    cmu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = open_slide(cmu)
    decoded: list[str] = []
    read = slide._reader.backend.read_associated
    monkeypatch.setattr(
        slide._reader.backend, "read_associated", lambda n: decoded.append(n) or read(n)
    )
    assert set(slide.associated_images) == {"label", "macro", "thumbnail"}
    assert slide.associated_sizes["label"] == (463, 387)
    slide_info(slide)
    assert decoded == []
    label = slide.associated_images["label"]
    assert (label.shape, label.dtype) == ((463, 387, 3), np.uint8)
    assert decoded == ["label"]
    with pytest.raises(KeyError):
        slide.associated_images["no"]


def test_info_is_json_and_tells_no_free_text(cmu: Path) -> None:
    slide = open_slide(cmu)
    info = json.loads(json.dumps(slide_info(slide)))
    assert info["shape"] == [2967, 2220]
    assert info["mpp"] == [0.499, 0.499]
    assert info["mpp_source"] == "file"
    assert info["objective_power"] == 20
    assert info["levels"][0]["downsample"] == 1.0
    assert info["bounds_level0"] == {"y": 0, "x": 0, "height": 2967, "width": 2220}
    assert info["associated_images"]["macro"] == [431, 1280]
    assert info["vendor"] == "aperio"
    assert info["fingerprint"].startswith("sha256:")
    assert slide.properties["aperio.User"] not in json.dumps(info)

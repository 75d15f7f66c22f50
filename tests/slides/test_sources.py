"""Opening: which backend, which name, and one clear line where it cannot be done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_wsi_xai.errors import (
    BadArgumentError,
    MissingMppError,
    SlideError,
    SlideNotFoundError,
    SlideReadError,
    UnsupportedSlideError,
)
from napari_wsi_xai.slides import open_slide
from napari_wsi_xai.slides.sources import slide_name

CMU_FORMS = {
    "CMU-1-Small-Region.svs": ("openslide", "CMU-1-Small-Region"),
    "CMU-1-Small-Region.dicom": ("openslide", "CMU-1-Small-Region"),
    "CMU-1-Small-Region.pyramid.ome.tif": ("tifffile", "CMU-1-Small-Region.pyramid"),
    "CMU-1-Small-Region_v0.4.ome.zarr": ("ome-zarr", "CMU-1-Small-Region_v0.4"),
    "CMU-1-Small-Region_v0.5.ome.zarr": ("ome-zarr", "CMU-1-Small-Region_v0.5"),
}
# Mean absolute difference to the SVS: the OME-Zarr forms are lossless, the others were
# compressed once more with JPEG (measured 2.89 and 3.10).
CMU_MEAN_DIFFERENCE = {".svs": 0.0, ".zarr": 0.0, ".dicom": 3.0, ".tif": 3.2}


def one_line(error: pytest.ExceptionInfo[SlideError], *words: str) -> None:
    """The message is one line and says the words."""
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("form", CMU_FORMS)
def test_all_forms_of_one_slide_agree(slides: Path, cmu: Path, form: str) -> None:
    with open_slide(slides / form) as slide, open_slide(cmu) as reference:
        assert (slide.backend, slide.name) == CMU_FORMS[form]
        assert slide.shape == (2967, 2220)
        assert slide.mpp == pytest.approx((0.499, 0.499), abs=1e-9)
        assert slide.mpp_source == "file"
        assert slide.downsamples[0] == 1.0
        assert (slide.bounds.origin, slide.bounds.shape) == ((0, 0), (2967, 2220))
        got = slide.read_region((0, 0), slide.shape).astype(int)
        want = reference.read_region((0, 0), reference.shape)
        assert np.abs(got - want).mean() <= CMU_MEAN_DIFFERENCE[Path(form).suffix]


@pytest.mark.parametrize("form", ["pyramid.ome.tif", "v0.4.ome.zarr", "v0.5.ome.zarr"])
def test_downsamples_of_sub_levels(slides: Path, form: str) -> None:
    (path,) = (p for p in slides.iterdir() if p.name.endswith(form))
    with open_slide(path) as slide:
        assert slide.level_shapes == ((2967, 2220), (1483, 1110), (741, 555), (370, 277))
        assert slide.downsamples == pytest.approx((1.0, 2.000337, 4.002024, 8.016680), abs=1e-6)


def test_every_file_of_a_dicom_slide_opens_it(slides: Path) -> None:
    folder = slides / "CMU-1-Small-Region.dicom"
    with open_slide(folder) as whole:
        for path in folder.iterdir():
            with open_slide(path) as slide:
                assert slide.shape == whole.shape
                assert slide.fingerprint == whole.fingerprint


def test_folder_with_two_dicom_slides_asks_which(slides: Path, tmp_path: Path) -> None:
    for path in (slides / "CMU-1-Small-Region.dicom").iterdir():
        data = path.read_bytes()
        (tmp_path / path.name).write_bytes(data)
        place = data.index(b"\x20\x00\x0e\x00UI") + 8
        length = int.from_bytes(data[place - 2 : place], "little")
        old = data[place : place + length]
        other = data.replace(old, old[:-3] + (b"123" if old[-3:] != b"123" else b"321"))
        (tmp_path / f"other-{path.name}").write_bytes(other)
    with pytest.raises(UnsupportedSlideError) as error:
        open_slide(tmp_path)
    one_line(error, "2 DICOM series", "give one file")
    with open_slide(next(tmp_path.glob("other-*"))) as slide:
        assert slide.shape == (2967, 2220)


def test_name_beyond_ascii(slides: Path) -> None:
    with open_slide(slides / "😐.svs") as slide:
        assert slide.name == "😐"
        assert slide.read_region((0, 0), (16, 16)).std() > 0


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/a/b.c/CMU-1.svs", "CMU-1"),
        ("/a/b.ome.tiff", "b"),
        ("/a/TCGA-XX-1.0a1b2c3d.svs", "TCGA-XX-1.0a1b2c3d"),
        ("https://host/data/x.ome.zarr/?key=1", "x"),
        ("s3://bucket/9846152.zarr/0", "0"),
        ("/a/plain", "plain"),
        ("/a/.svs", ".svs"),
    ],
)
def test_slide_name(source: str, name: str) -> None:
    assert slide_name(source) == name


def test_relative_path_tilde_and_file_url(
    cmu: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copy(cmu, tmp_path / "a.svs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    sources = {open_slide(s).source for s in ("a.svs", "~/a.svs", (tmp_path / "a.svs").as_uri())}
    assert sources == {str(tmp_path / "a.svs")}


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SlideNotFoundError) as error:
        open_slide(tmp_path / "no.svs")
    one_line(error, "no.svs", "does not exist")


def test_not_a_slide(tmp_path: Path) -> None:
    path = tmp_path / "letter.svs"
    path.write_text("Dear colleague, " * 100)
    with pytest.raises(UnsupportedSlideError) as error:
        open_slide(path)
    one_line(error, "letter.svs", "is not a readable slide", "OME-Zarr")


@pytest.mark.parametrize("content", [b"", b"II*\0", b"II*\0\x08\0\0\0", b"MM\0*garbage" * 9])
def test_damaged_headers(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.tiff"
    path.write_bytes(content)
    with pytest.raises(UnsupportedSlideError) as error:
        open_slide(path)
    one_line(error, "bad.tiff")


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "CMU-1-Small-Region.pyramid.ome.tif"])
def test_truncated_slide(slides: Path, tmp_path: Path, name: str, keep: float) -> None:
    """Cut short, it must not pass for a slide with fewer levels or without mpp."""
    data = (slides / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UnsupportedSlideError) as error:
        open_slide(path)
    one_line(error, name, "cut short", "copy it again")


def test_truncated_pixels(noise: np.ndarray, tmp_path: Path) -> None:
    """A file that keeps its directory in front opens, and fails where pixels are missing."""
    path = tmp_path / "front.tif"
    tifffile.imwrite(path, noise, tile=(64, 64), photometric="rgb")
    os.truncate(path, path.stat().st_size - 20_000)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region((0, 0), (128, 420)), noise[:128])
        with pytest.raises(SlideReadError) as error:
            slide.read_region((200, 0), (100, 420))
        one_line(error, "front", "level 0, rows 200 to 300", "the file ends")


def test_unopenable(slides: Path) -> None:
    with pytest.raises(UnsupportedSlideError) as error:
        open_slide(slides / "unopenable.tiff")
    one_line(error, "unopenable.tiff", "compression 52479")


def test_unreadable_fails_each_time_with_its_own_reason(slides: Path) -> None:
    """A failed OpenSlide handle refuses everything: the reason must not become that."""
    with open_slide(slides / "unreadable.svs") as slide:
        for _ in range(3):
            with pytest.raises(SlideReadError) as error:
                slide.read_region((0, 0), (16, 16))
            one_line(error, "unreadable", "level 0", "rows 0 to 16", "Bogus marker length")


def test_empty_folder_and_other_folder(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSlideError) as error:
        open_slide(tmp_path)
    one_line(error, "empty")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UnsupportedSlideError) as error:
        open_slide(tmp_path)
    one_line(error, "neither DICOM files nor OME-Zarr")


def test_no_permission(cmu: Path, tmp_path: Path, unprivileged) -> None:
    path = tmp_path / "locked.svs"
    shutil.copy(cmu, path)
    open_slide(path).close()  # imports what is needed while the rights are there
    path.chmod(0)
    with unprivileged(), pytest.raises(SlideReadError) as error:
        open_slide(path)
    one_line(error, "may not be read", "permission")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
def test_pipe_is_refused_at_once(tmp_path: Path) -> None:
    """Opening a pipe would wait for a writer forever."""
    path = tmp_path / "pipe.svs"
    os.mkfifo(path)
    with pytest.raises(UnsupportedSlideError):
        open_slide(path)


@pytest.mark.parametrize("url", ["ftp://host/a.zarr", "gs://bucket/a.zarr"])
def test_unsupported_scheme(url: str) -> None:
    with pytest.raises(UnsupportedSlideError) as error:
        open_slide(url)
    one_line(error, url, "s3://")


@pytest.mark.parametrize("mpp", [0, -1, 0.001, 101, float("nan"), "x", (0.5,), (1, 2, 3), "12"])
def test_mpp_out_of_limits(cmu: Path, mpp: object) -> None:
    with pytest.raises(BadArgumentError):
        open_slide(cmu, mpp=mpp)  # type: ignore[arg-type]


def test_mpp_of_the_user(cmu: Path, slides: Path) -> None:
    slide = open_slide(slides / "TCGA-CR-7395-01A-01-TS1.svs")
    assert slide.mpp is None
    assert slide.mpp_source is None
    with pytest.raises(MissingMppError, match=r"--mpp.*Micrometres per pixel"):
        slide.require_mpp()
    assert open_slide(slide.source, mpp=0.25).require_mpp() == (0.25, 0.25)
    stated = open_slide(cmu, mpp=(0.25, 0.26))
    assert (stated.mpp, stated.mpp_source) == ((0.25, 0.26), "user")


def test_importing_slides_is_light() -> None:
    code = (
        "import sys, napari_wsi_xai.slides; "
        "print([m for m in ('torch', 'openslide', 'tifffile', 'qtpy') "
        "if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"

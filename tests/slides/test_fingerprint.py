"""Fingerprints follow the content, not the path."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from napari_wsi_xai.slides import open_slide
from napari_wsi_xai.slides.fingerprint import (
    SAMPLE_BYTES,
    fingerprint_files,
    fingerprint_pyramid,
)

FORMS = [
    "CMU-1-Small-Region.svs",
    "CMU-1-Small-Region.dicom",
    "CMU-1-Small-Region.pyramid.ome.tif",
    "CMU-1-Small-Region_v0.4.ome.zarr",
    "CMU-1-Small-Region_v0.5.ome.zarr",
]


@pytest.mark.parametrize("form", FORMS)
def test_copy_under_another_name_has_the_same(slides: Path, tmp_path: Path, form: str) -> None:
    path = slides / form
    copy = tmp_path / f"other{path.suffix}"
    if path.is_dir():
        shutil.copytree(path, copy, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(path, copy)
        os.utime(copy, (1, 1))
    with open_slide(path) as one, open_slide(copy) as other:
        assert one.fingerprint == other.fingerprint
        assert one.fingerprint.startswith("sha256:")
        assert len(one.fingerprint) == len("sha256:") + 64


def test_forms_differ(slides: Path) -> None:
    assert len({open_slide(slides / form).fingerprint for form in FORMS}) == len(FORMS)


@pytest.mark.parametrize("place", [8, -1, 0.5])
def test_one_byte_in_head_middle_or_tail_changes_it(
    cmu: Path, tmp_path: Path, place: float
) -> None:
    data = bytearray(cmu.read_bytes())
    before = fingerprint_files([("", cmu)])
    data[int(len(data) * place) if isinstance(place, float) else place] ^= 1
    path = tmp_path / "b.svs"
    path.write_bytes(data)
    assert fingerprint_files([("", path)]) != before


def test_size_counts_where_no_byte_was_read(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(bytes(4 * SAMPLE_BYTES))
    b.write_bytes(bytes(4 * SAMPLE_BYTES + 1))
    assert fingerprint_files([("", a)]) != fingerprint_files([("", b)])


def test_order_of_files_does_not_count_but_names_do(tmp_path: Path) -> None:
    paths = [tmp_path / n for n in "ab"]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]) * 10)
    named = [(p.name, p) for p in paths]
    assert fingerprint_files(named) == fingerprint_files(named[::-1])
    assert fingerprint_files(named) != fingerprint_files([("b", paths[0]), ("a", paths[1])])


def test_reads_no_more_than_a_megabyte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted at the system's own reads, for one large file and for many files."""
    large = tmp_path / "large"
    large.write_bytes(bytes(5_000_000))
    many = [(f"{i:03d}", large) for i in range(300)]
    counted: list[int] = []

    class Counting:
        def __init__(self, file: object) -> None:
            self._file = file

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def seek(self, place: int) -> None:
            self._file.seek(place)

        def read(self, count: int) -> bytes:
            counted.append(count)
            return self._file.read(count)

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a: Counting(opened(self, *a)))
    for named in ([("", large)], many):
        counted.clear()
        fingerprint_files(named)
        assert 0 < sum(counted) <= 1_000_000


def test_pyramid_counts_metadata_and_pixels() -> None:
    zeros, ones = np.zeros((2, 3, 3), np.uint8), np.ones((2, 3, 3), np.uint8)
    prints = {
        fingerprint_pyramid({"a": 1}, [zeros]),
        fingerprint_pyramid({"a": 2}, [zeros]),
        fingerprint_pyramid({"a": 1}, [ones]),
        fingerprint_pyramid({"a": 1}, [zeros.reshape(3, 2, 3)]),
    }
    assert len(prints) == 4
    assert fingerprint_pyramid({"a": 1, "b": 2}, []) == fingerprint_pyramid({"b": 2, "a": 1}, [])

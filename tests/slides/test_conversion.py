"""Conversion to OME-Zarr: the same pixels, all or nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from napari_wsi_xai.errors import BadArgumentError, SlideReadError, StoreError
from napari_wsi_xai.geometry import Region
from napari_wsi_xai.slides import convert_slide, open_slide
from napari_wsi_xai.slides.pyramid import halve

SMALL = {"chunk": 256, "shard": 512}


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_round_trip_makes_the_missing_pyramid(cmu: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with open_slide(cmu) as slide:
        out = convert_slide(
            slide, tmp_path / "a.ome.zarr", progress=lambda *p: told.append(p), **SMALL
        )
        assert out == tmp_path / "a.ome.zarr"
        with open_slide(out) as again:
            assert (again.backend, again.name) == ("ome-zarr", "a")
            assert again.mpp == pytest.approx(slide.mpp)
            assert again.objective_power == 20
            assert again.downsamples == (1.0, 2.0, 4.0)
            assert again.level_shapes == ((2967, 2220), (1484, 1110), (742, 555))
            assert dict(again.associated_images) == {}
            pixels = slide.read_region((0, 0), slide.shape)
            np.testing.assert_array_equal(again.read_region((0, 0), again.shape), pixels)
            for level in (1, 2):
                pixels = np.moveaxis(halve(np.moveaxis(pixels, 2, 0)), 0, 2)
                np.testing.assert_array_equal(again.levels[level][:], pixels)
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, total in told} == {len(told)} == {30 + 9 + 4}
    assert leftovers(tmp_path) == []


def test_levels_of_the_slide_are_copied(slides: Path, tmp_path: Path) -> None:
    """The non-integer level comes as it is, with its downsample; no mpp stays no mpp."""
    with open_slide(slides / "TCGA-CR-7395-01A-01-TS1.svs") as slide:
        again = open_slide(convert_slide(slide, tmp_path / "t.ome.zarr"))
        with again:
            assert again.mpp is None
            assert again.downsamples[:2] == pytest.approx(slide.downsamples)
            assert again.level_shapes[:2] == slide.level_shapes
            for level in (0, 1):
                got = again.read_level(level, 700, 300, 900, 800)
                np.testing.assert_array_equal(got, slide.read_level(level, 700, 300, 900, 800))


def test_mpp_of_the_user_is_kept(slides: Path, tmp_path: Path) -> None:
    with open_slide(slides / "boxes.tiff", mpp=(0.25, 0.5)) as stated:
        out = convert_slide(stated, tmp_path / "m.ome.zarr")
    with open_slide(out) as again:
        assert (again.mpp, again.mpp_source) == ((0.25, 0.5), "file")


def test_written_image_is_valid_sharded_and_lossless(cmu: Path, tmp_path: Path) -> None:
    from ome_zarr_models.v05 import Image

    with open_slide(cmu) as slide:
        group = zarr.open_group(convert_slide(slide, tmp_path / "v.ome.zarr", **SMALL), mode="r")
        assert slide.properties["aperio.User"] not in str(dict(group.attrs))
        assert sorted(group.array_keys()) == ["0", "1", "2"], "no label, no macro"
    Image.from_zarr(group)
    level = group["0"]
    assert level.chunks == (3, 256, 256)
    assert level.shards == (3, 512, 512)
    assert level.metadata.dimension_names == ("c", "y", "x")
    files = [p for p in (tmp_path / "v.ome.zarr" / "0").rglob("*") if p.is_file()]
    assert len(files) == 1 + 6 * 5, "one file a shard, and the metadata"


def test_bounds_and_background_come_back(scn: Path, tmp_path: Path) -> None:
    with open_slide(scn) as slide, open_slide(convert_slide(slide, tmp_path / "b.zarr")) as again:
        assert again.bounds == slide.bounds == Region(100, 200, 300, 420)
        assert again.vendor == "leica"


def test_existing_out(cmu: Path, slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.ome.zarr"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with open_slide(slides / "boxes.tiff") as slide:
        with pytest.raises(StoreError, match="exists") as error:
            convert_slide(slide, out)
        assert "\n" not in str(error.value)
        assert (out / "mine.txt").read_text() == "keep"
        convert_slide(slide, out, overwrite=True)
    with open_slide(out) as again:
        assert again.shape == (250, 300)
    assert not (out / "mine.txt").exists()
    assert leftovers(tmp_path) == []


def test_overwriting_keeps_the_old_until_the_new_is_whole(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.ome.zarr"
    with open_slide(slides / "boxes.tiff") as slide:
        convert_slide(slide, out)
    with (
        open_slide(slides / "unreadable.svs") as bad,
        pytest.raises(SlideReadError),
    ):
        convert_slide(bad, out, overwrite=True)
    with open_slide(out) as again:
        assert again.shape == (250, 300)
    assert leftovers(tmp_path) == []


def test_error_half_way_leaves_nothing(cmu: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == total // 2:
            raise KeyboardInterrupt

    with open_slide(cmu) as slide, pytest.raises(KeyboardInterrupt):
        convert_slide(slide, tmp_path / "k.ome.zarr", progress=stop, **SMALL)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from napari_wsi_xai.slides import convert_slide, open_slide
def stop(done, total):
    if done == total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
convert_slide(open_slide(sys.argv[1]), sys.argv[2], progress=stop, chunk=256, shard=512)
"""


def test_killed_half_way_leaves_no_out(cmu: Path, tmp_path: Path) -> None:
    out = tmp_path / "k.ome.zarr"
    run = subprocess.run([sys.executable, "-c", KILLED, str(cmu), str(out)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert not out.exists()
    with open_slide(cmu) as slide, open_slide(convert_slide(slide, out)) as again:
        np.testing.assert_array_equal(
            again.read_region((0, 0), (500, 500)), slide.read_region((0, 0), (500, 500))
        )


FULL = """
import resource, signal, sys
from napari_wsi_xai.errors import StoreError
from napari_wsi_xai.slides import convert_slide, open_slide
slide = open_slide(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    convert_slide(slide, sys.argv[2])
except StoreError as error:
    print(error)
"""


def test_no_room(cmu: Path, tmp_path: Path) -> None:
    """The system refuses writes beyond a limit, as it does on a full disk."""
    out = tmp_path / "f.ome.zarr"
    command = [sys.executable, "-c", FULL, str(cmu), str(out)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = run.stdout.splitlines()
    assert "disk is full" in line
    assert list(tmp_path.iterdir()) == []


def test_no_permission(slides: Path, tmp_path: Path, unprivileged: Callable[[], object]) -> None:
    with open_slide(slides / "boxes.tiff") as slide:
        tmp_path.chmod(0o555)
        with unprivileged(), pytest.raises(StoreError, match="not writable") as error:
            convert_slide(slide, tmp_path / "p.ome.zarr")
        tmp_path.chmod(0o755)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("chunk", "shard"), [(0, 0), (256, 300), (512, 256)])
def test_sizes_that_do_not_fit(slides: Path, tmp_path: Path, chunk: int, shard: int) -> None:
    with (
        open_slide(slides / "boxes.tiff") as slide,
        pytest.raises(BadArgumentError, match="multiple"),
    ):
        convert_slide(slide, tmp_path / "s.zarr", chunk=chunk, shard=shard)


def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    """No single read asks for more than a shard, or for two by two of them."""
    path = tmp_path / "wide.tif"
    image = np.zeros((600, 9000, 3), np.uint8)
    tifffile.imwrite(path, image, tile=(256, 256), compression="zstd", photometric="rgb")
    asked: list[int] = []
    slide = open_slide(path)
    read = slide._reader.backend.read

    def counting(level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        asked.append(height * width)
        return read(level, y, x, height, width)

    slide._reader.backend.read = counting
    convert_slide(slide, tmp_path / "w.zarr", **SMALL)
    assert max(asked) <= 512 * 512

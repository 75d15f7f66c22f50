"""The slide file: a pyramid that readers understand, the same bytes for the same seed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from napari_wsi_xai.demo.render import Scene
from napari_wsi_xai.demo.slide import DemoSlide, existing_demo_slide, make_demo_slide
from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.geometry import Region
from napari_wsi_xai.slides import open_slide

SHAPE = (2301, 2610)  # two rows and columns of blocks, sides not multiples of anything


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> DemoSlide:
    return make_demo_slide(tmp_path_factory.mktemp("demo") / "slide.tif", 3, SHAPE)


def test_reads_as_a_pyramid_with_its_mpp(demo):
    with open_slide(demo.path) as slide:
        assert slide.shape == SHAPE
        assert slide.mpp == pytest.approx((0.5, 0.5))
        assert slide.mpp_source == "file"
        assert slide.downsamples == pytest.approx((1, 2, 4, 8), rel=0.01)


def test_level0_is_the_scene_but_for_compression(demo):
    with open_slide(demo.path) as slide:
        for y, x in ((900, 1100), (1800, 1900), (2200, 2500)):
            height, width = min(400, SHAPE[0] - y), min(400, SHAPE[1] - x)
            read = slide.read_region((y, x), (height, width)).astype(int)
            drawn = Scene(3, SHAPE).render(Region(y, x, height, width)).astype(int)
            assert np.abs(read - drawn).mean() < 5
            # JPEG rounds the chroma of even glass by up to two grey levels of blue.
            assert np.abs((read - drawn).mean(axis=(0, 1))).max() < 2.5


def test_coarser_levels_are_means_of_level0(demo):
    with open_slide(demo.path) as slide:
        full = slide.read_region((0, 0), (2304, 2608)).astype(float)[:2296]
        for level, factor in ((1, 2), (2, 4), (3, 8)):
            shape = (2296 // factor, 2608 // factor)
            coarse = slide.read_region((0, 0), shape, level=level).astype(float)
            blocks = full.reshape(shape[0], factor, shape[1], factor, 3).mean(axis=(1, 3))
            assert np.abs(coarse - blocks).mean() < 4
            assert np.abs((coarse - blocks).mean(axis=(0, 1))).max() < 1


def test_same_seed_same_bytes(demo, tmp_path):
    again = make_demo_slide(tmp_path / "again.tif", 3, SHAPE)
    assert again.path.read_bytes() == demo.path.read_bytes()
    assert [nest.wkb for nest in again.truth] == [nest.wkb for nest in demo.truth]
    other = make_demo_slide(tmp_path / "other.tif", 4, (1024, 1024), tumour=False)
    assert other.label == "normal"
    assert other.truth == []


def test_progress_counts_every_block(tmp_path):
    seen: list[tuple[int, int]] = []
    make_demo_slide(tmp_path / "s.tif", 1, (1024, 2100), progress=lambda *n: seen.append(n))
    assert seen == [(1, 2), (2, 2)]


def test_an_existing_slide_is_taken_only_if_it_is_the_same(demo, tmp_path):
    assert existing_demo_slide(tmp_path / "none.tif", 3, SHAPE) is None
    found = existing_demo_slide(demo.path, 3, SHAPE)
    assert found is not None
    assert [nest.wkb for nest in found.truth] == [nest.wkb for nest in demo.truth]
    with pytest.raises(BadArgumentError, match="seed 4"):
        existing_demo_slide(demo.path, 4, SHAPE)
    junk = tmp_path / "junk.tif"
    junk.write_bytes(b"not a slide")
    with pytest.raises(BadArgumentError, match="no readable TIFF"):
        existing_demo_slide(junk, 3, SHAPE)


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    def fail(done: int, total: int) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        make_demo_slide(tmp_path / "s.tif", 1, (1024, 1024), progress=fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("shape", "mpp"), [((1000, 4000), 0.5), ((2048, 2048), 0.0)])
def test_limits_are_told(tmp_path, shape, mpp):
    with pytest.raises(BadArgumentError):
        make_demo_slide(tmp_path / "s.tif", 0, shape, mpp=mpp)


def test_the_generator_needs_neither_torch_nor_qt():
    code = (
        "import sys, napari_wsi_xai.demo.slide\n"
        "assert not {'torch', 'napari', 'qtpy', 'tifffile'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

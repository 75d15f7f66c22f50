"""The slide as a Zarr store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

from napari_wsi_xai.slides import Slide, open_slide
from napari_wsi_xai.slides.store import chunk_edge


@pytest.fixture(scope="module")
def slide(slides: Path) -> Slide:
    return open_slide(slides / "CMU-1-Small-Region.pyramid.ome.tif")


@given(st.integers(1, 20000), st.integers(1, 10**6))
def test_chunks_are_small_and_aligned(tile: int, extent: int) -> None:
    edge = chunk_edge(tile, extent)
    assert 1 <= edge <= min(1024, extent)
    if tile <= 1024 and edge < extent:
        assert edge % tile == 0


def test_large_tiles_are_divided(slide: Slide) -> None:
    assert chunk_edge(2048, 10**5) == 1024
    assert chunk_edge(4096, 10**5) == 1024
    assert chunk_edge(1536, 10**5) == 768


def test_root_is_a_valid_ome_zarr_image(slide: Slide) -> None:
    from ome_zarr_models.v05 import Image

    group = zarr.open_group(slide.store, mode="r")
    image = Image.from_zarr(group)
    (multiscale,) = image.ome_attributes.multiscales
    assert [a.name for a in multiscale.axes] == ["c", "y", "x"]
    assert [a.unit for a in multiscale.axes[1:]] == ["micrometer", "micrometer"]
    scale, shift = multiscale.datasets[1].coordinateTransformations
    step = slide.downsamples[1]
    assert scale.scale == pytest.approx([1.0, 0.499 * step, 0.499 * step])
    assert shift.translation == pytest.approx([0.0] + [0.499 * (step - 1) / 2] * 2)


def test_both_axis_orders_hold_the_same_pixels(slide: Slide) -> None:
    group = zarr.open_group(slide.store, mode="r")
    for i, level in enumerate(slide.levels):
        cyx = group[str(i)][:, 100:300, 200:270]
        np.testing.assert_array_equal(np.moveaxis(cyx, 0, 2), level[100:300, 200:270])


def test_slide_opens_from_its_own_store(slide: Slide, tmp_path: Path) -> None:
    """Copied key by key to a folder it is an OME-Zarr slide with the same pixels."""
    store, prototype = slide.store, default_buffer_prototype()

    async def copy() -> list[str]:
        keys = [key async for key in store.list()]
        for key in keys:
            assert await store.exists(key)
            value = await store.get(key, prototype)
            path = tmp_path / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value.to_bytes())
        return keys

    assert len(asyncio.run(copy())) == 2 + 2 * 4 + 2 * (30 + 9 + 4 + 1)
    with open_slide(tmp_path) as again:
        assert again.level_shapes == slide.level_shapes
        assert again.downsamples == pytest.approx(slide.downsamples)
        assert again.mpp == pytest.approx(slide.mpp)
        for i in range(4):
            np.testing.assert_array_equal(again.levels[i][:], slide.levels[i][:])


def test_edge_chunks_are_padded_with_background(slide: Slide) -> None:
    prototype = default_buffer_prototype()
    data = asyncio.run(slide.store.get("yxc/0/c/5/4/0", prototype))
    chunk = np.frombuffer(data.to_bytes(), np.uint8).reshape(512, 512, 3)
    rows, columns = 2967 - 5 * 512, 2220 - 4 * 512
    assert (chunk[rows:] == 255).all()
    assert (chunk[:, columns:] == 255).all()
    np.testing.assert_array_equal(
        chunk[:rows, :columns], slide.read_region((2560, 2048), (rows, columns))
    )


@pytest.mark.parametrize(
    "key",
    [
        "",
        "9/zarr.json",
        "0/c/0/6/0",
        "0/c/0/0/5",
        "0/c/1/0/0",
        "4/c/0/0/0",
        "yxc/0/c/0/0/1",
        "yxc/0/c/-1/0/0",
        "yxc/0/c/a/0/0",
        "0/c/0/0",
        ".zattrs",
    ],
)
def test_other_keys_do_not_exist(slide: Slide, key: str) -> None:
    assert not asyncio.run(slide.store.exists(key))
    assert asyncio.run(slide.store.get(key, default_buffer_prototype())) is None


def test_parts_of_a_value(slide: Slide) -> None:
    prototype, key = default_buffer_prototype(), "3/c/0/0/0"

    def get(request: object) -> bytes:
        return asyncio.run(slide.store.get(key, prototype, request)).to_bytes()

    whole = get(None)
    assert len(whole) == 370 * 277 * 3
    assert get(RangeByteRequest(10, 30)) == whole[10:30]
    assert get(OffsetByteRequest(100)) == whole[100:]
    assert get(SuffixByteRequest(7)) == whole[-7:]
    assert get(SuffixByteRequest(0)) == b""


def test_listing_a_folder(slide: Slide) -> None:
    async def names(prefix: str) -> set[str]:
        return {name async for name in slide.store.list_dir(prefix)}

    assert asyncio.run(names("")) == {"zarr.json", "yxc", "0", "1", "2", "3"}
    assert asyncio.run(names("yxc/3")) == {"zarr.json", "c"}


def test_it_cannot_be_written(slide: Slide) -> None:
    with pytest.raises(ValueError, match="read-only"):
        slide.levels[0][:4, :4] = 0


def test_read_errors_come_through(slides: Path) -> None:
    from napari_wsi_xai.errors import SlideReadError

    with pytest.raises(SlideReadError, match="Bogus"):
        open_slide(slides / "unreadable.svs").levels[0][:]

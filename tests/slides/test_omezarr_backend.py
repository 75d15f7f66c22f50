"""OME-Zarr with axes in any order, units, versions, and behind a URL."""

from __future__ import annotations

import http.server
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from napari_wsi_xai.errors import SlideNotFoundError, SlideReadError, UnsupportedSlideError
from napari_wsi_xai.slides import open_slide

UNIT = "micrometer"


def write(
    path: Path,
    images: list[np.ndarray],
    axes: str,
    *,
    version: str = "0.5",
    unit: str | None = UNIT,
    scale: tuple[float, float] = (0.5, 0.25),
    listed: list[Any] | None = None,
) -> Path:
    """An OME-Zarr image from (y, x, c) levels with its axes put in the order of ``axes``."""
    root = zarr.create_group(str(path), zarr_format=3 if version == "0.5" else 2)
    kinds = {"c": "channel", "t": "time", "z": "space", "y": "space", "x": "space"}
    datasets = []
    for i, image in enumerate(images):
        used = [a for a in axes if a in "yxc"]
        data = image.transpose(["yxc".index(a) for a in used])
        data = data.reshape([image.shape["yxc".index(a)] if a in "yxc" else 1 for a in axes])
        chunks = tuple(min(n, 60) for n in data.shape)
        root.create_array(f"s{i}", data=data, chunks=chunks)
        step = images[0].shape[0] / image.shape[0]
        sizes = {"y": scale[0] * step, "x": scale[1] * step}
        transform = {"type": "scale", "scale": [sizes.get(a, 1.0) for a in axes]}
        datasets.append({"path": f"s{i}", "coordinateTransformations": [transform]})
    named = [
        {"name": a, "type": kinds[a]} | ({"unit": unit} if unit and a in "zyx" else {})
        for a in axes
    ]
    image = {"axes": listed if listed is not None else named, "datasets": datasets}
    if version == "0.5":
        root.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    else:
        root.attrs["multiscales"] = [image | {"version": version}]
    return path


ORDERS = ["".join(p) for p in itertools.permutations("cyx")] + ["tczyx", "zcyx", "tyxc", "zyxct"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ORDERS)
def test_axes_in_any_order(tmp_path: Path, noise: np.ndarray, axes: str, version: str) -> None:
    half = noise[::2, ::2]
    with open_slide(write(tmp_path / "a.zarr", [noise, half], axes, version=version)) as slide:
        assert slide.shape == noise.shape[:2]
        assert slide.mpp == (0.5, 0.25)
        assert slide.downsamples == (1.0, 2.0)
        np.testing.assert_array_equal(slide.read_region((0, 0), slide.shape), noise)
        np.testing.assert_array_equal(slide.read_region((31, 47), (99, 101)), noise[31:130, 47:148])
        np.testing.assert_array_equal(slide.levels[1][:], half)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("micrometer", 1),
        ("micrometre", 1),
        ("um", 1),
        ("µm", 1),
        ("nanometer", 1e-3),
        ("millimeter", 1e3),
        ("meter", 1e6),
        (None, None),
        ("pixel", None),
        ("second", None),
    ],
)
def test_units(tmp_path: Path, noise: np.ndarray, unit: str | None, factor: float | None) -> None:
    with open_slide(write(tmp_path / "u.zarr", [noise], "cyx", unit=unit)) as slide:
        want = None if factor is None else pytest.approx((0.5 * factor, 0.25 * factor))
        assert slide.mpp == want


def test_scale_of_the_whole_image_counts(tmp_path: Path, noise: np.ndarray) -> None:
    path = write(tmp_path / "w.zarr", [noise], "cyx", scale=(1, 1))
    root = zarr.open_group(str(path))
    ome = dict(root.attrs["ome"])
    ome["multiscales"][0]["coordinateTransformations"] = [{"type": "scale", "scale": [1, 0.3, 0.4]}]
    root.attrs["ome"] = ome
    with open_slide(path) as slide:
        assert slide.mpp == (0.3, 0.4)


def test_old_axes(tmp_path: Path, noise: np.ndarray) -> None:
    """0.3 lists names alone; 0.2 lists nothing and always has t c z y x."""
    names = write(tmp_path / "3.zarr", [noise], "cyx", version="0.3", listed=["c", "y", "x"])
    nothing = write(tmp_path / "2.zarr", [noise], "tczyx", version="0.2", listed=[])
    for path in (names, nothing):
        with open_slide(path) as slide:
            np.testing.assert_array_equal(slide.read_region((0, 0), slide.shape), noise)
            assert slide.mpp is None


def test_rgba_lies_on_white(tmp_path: Path, noise: np.ndarray) -> None:
    alpha = np.zeros(noise.shape[:2], np.uint8)
    alpha[:100] = 255
    with open_slide(write(tmp_path / "a.zarr", [np.dstack([noise, alpha])], "cyx")) as slide:
        got = slide.read_region((0, 0), slide.shape)
    np.testing.assert_array_equal(got[:100], noise[:100])
    assert (got[100:] == 255).all()


def test_image_in_a_bioformats2raw_collection(tmp_path: Path, noise: np.ndarray) -> None:
    root = zarr.create_group(str(tmp_path / "b.zarr"), zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    write(tmp_path / "b.zarr" / "0", [noise], "tczyx", version="0.4")
    with open_slide(tmp_path / "b.zarr") as slide:
        np.testing.assert_array_equal(slide.read_region((0, 0), slide.shape), noise)


def planes(n: int) -> np.ndarray:
    return np.zeros((40, 40, n), np.uint8)


@pytest.mark.parametrize(
    ("image", "words"),
    [(planes(1), "1 channels"), (planes(5), "5 channels"), (planes(3).astype("u2"), "uint16")],
)
def test_what_is_not_rgb_is_refused(tmp_path: Path, image: np.ndarray, words: str) -> None:
    with pytest.raises(UnsupportedSlideError, match=words) as error:
        open_slide(write(tmp_path / "x.zarr", [image], "cyx"))
    assert "8-bit RGB" in str(error.value)


def test_stack_is_refused(tmp_path: Path) -> None:
    root = zarr.create_group(str(tmp_path / "z.zarr"), zarr_format=3)
    root.create_array("0", data=np.zeros((3, 4, 30, 30), np.uint8))
    axes = [{"name": a, "type": "space"} for a in "czyx"]
    datasets = [{"path": "0", "coordinateTransformations": []}]
    root.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": datasets}], "version": "0.5"}
    with pytest.raises(UnsupportedSlideError, match="more than one plane"):
        open_slide(tmp_path / "z.zarr")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda m: m.pop("datasets"), "damaged"),
        (lambda m: m["datasets"][0].update(path="gone"), "damaged"),
        (lambda m: m["axes"].pop(), "axes"),
        (lambda m: m.update(datasets=[]), "damaged"),
        (lambda m: m["datasets"][0].update(path=3), "damaged"),
    ],
)
def test_damaged_metadata(tmp_path: Path, noise: np.ndarray, damage: Any, words: str) -> None:
    path = write(tmp_path / "d.zarr", [noise], "cyx")
    root = zarr.open_group(str(path))
    ome = dict(root.attrs["ome"])
    damage(ome["multiscales"][0])
    root.attrs["ome"] = ome
    with pytest.raises(UnsupportedSlideError, match=words) as error:
        open_slide(path)
    assert "\n" not in str(error.value)


def test_group_without_image_and_broken_json(tmp_path: Path) -> None:
    zarr.create_group(str(tmp_path / "g.zarr"), zarr_format=3)
    with pytest.raises(UnsupportedSlideError, match="no multiscale image"):
        open_slide(tmp_path / "g.zarr")
    (tmp_path / "g.zarr" / "zarr.json").write_text("{ not json")
    with pytest.raises(UnsupportedSlideError):
        open_slide(tmp_path / "g.zarr")


def test_damaged_chunk_is_a_read_error(tmp_path: Path, noise: np.ndarray) -> None:
    path = write(tmp_path / "c.zarr", [noise], "cyx")
    (path / "s0" / "c" / "0" / "1" / "1").write_bytes(b"garbage")
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region((0, 0), (60, 60)), noise[:60, :60])
        with pytest.raises(SlideReadError, match="rows 60 to 70"):
            slide.read_region((60, 60), (10, 10))


# -- behind a URL ----------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path, handler: type[Quiet], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def served(slides: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serving(slides, Quiet, monkeypatch) as host:
        yield host


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_http(served: str, slides: Path, version: str) -> None:
    name = f"CMU-1-Small-Region_v{version}.ome.zarr"
    with open_slide(f"{served}/{name}/") as slide, open_slide(slides / name) as local:
        assert slide.name == f"CMU-1-Small-Region_v{version}"
        assert slide.mpp == local.mpp
        assert slide.fingerprint == local.fingerprint
        np.testing.assert_array_equal(
            slide.read_region((1000, 900), (300, 400)), local.read_region((1000, 900), (300, 400))
        )
        np.testing.assert_array_equal(slide.levels[3][:], local.levels[3][:])


@pytest.mark.parametrize("path", ["nothing.ome.zarr", "CMU-1-Small-Region.svs"])
def test_no_image_at_the_url(served: str, path: str) -> None:
    with pytest.raises(SlideNotFoundError, match="check the URL") as error:
        open_slide(f"{served}/{path}")
    assert "\n" not in str(error.value)


class Bucket(Quiet):
    """The part of the S3 protocol that reading needs: HEAD, GET, and errors and lists as XML."""

    def translate_path(self, path: str) -> str:
        return super().translate_path(path.replace("/bucket/", "/"))

    def _xml(self, code: int, text: str) -> None:
        body = f'<?xml version="1.0"?>{text}'.encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, *_: object, **__: object) -> None:
        self._xml(code, "<Error><Code>NoSuchKey</Code><Message>none</Message></Error>")

    def do_GET(self) -> None:
        if "list-type" in self.path:
            self._xml(200, "<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
        else:
            super().do_GET()


def test_s3_public_bucket(slides: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials anywhere: read without signing."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    name = "CMU-1-Small-Region_v0.5.ome.zarr"
    with serving(slides, Bucket, monkeypatch) as host:
        monkeypatch.setenv("AWS_ENDPOINT_URL", host)
        with open_slide(f"s3://bucket/{name}") as slide, open_slide(slides / name) as local:
            assert slide.fingerprint == local.fingerprint
            assert slide.mpp == local.mpp
        with pytest.raises(SlideNotFoundError, match="holds no OME-Zarr image"):
            open_slide("s3://bucket/nothing.zarr")


def test_server_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(SlideNotFoundError, match="cannot be reached") as error:
        open_slide("http://127.0.0.1:9/x.ome.zarr")
    assert "\n" not in str(error.value)

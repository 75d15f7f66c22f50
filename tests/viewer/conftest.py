"""A small slide, small models and a finished run for the viewer's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

MPP = 0.5
SHAPE = (1500, 1900)


def write_slide(path: Path, mpp: float | None = MPP, shape: tuple[int, int] = SHAPE) -> Path:
    """A tiled TIFF: stained squares that differ from tile to tile, on glass."""
    rng = np.random.default_rng(7)
    height, width = shape
    image = np.full((height, width, 3), 243, dtype=np.uint8)
    tissue = image[100 : height - 100, 100 : width - 100]
    tissue[...] = (200, 120, 170)
    for y in range(0, tissue.shape[0], 112):
        for x in range(0, tissue.shape[1], 112):
            tissue[y : y + 112, x : x + 112] = rng.integers((120, 40, 110), (230, 150, 200))
    resolution = None if mpp is None else (1e4 / mpp, 1e4 / mpp)
    unit = "NONE" if mpp is None else "CENTIMETER"
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            image,
            tile=(256, 256),
            photometric="rgb",
            compression="jpeg",
            subifds=1,
            resolution=resolution,
            resolutionunit=unit,
        )
        half = image[::2, ::2]
        writer.write(half, tile=(256, 256), photometric="rgb", compression="jpeg", subfiletype=1)
    return path


@pytest.fixture(scope="session")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slide") / "small.tif")


@pytest.fixture(scope="session")
def no_mpp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("no mpp") / "unscaled.tif", mpp=None)


def make_model(folder: Path, head: str = "abmil", seed: int = 0, tile_px: int = 112) -> Path:
    """A bundle with the small encoder and seeded random weights."""
    from napari_wsi_xai.models import build_encoder, build_model, save_model

    model = build_model(build_encoder("small"), head, tile_px=tile_px, mpp=MPP, seed=seed)
    return save_model(model, folder / f"{head}-{seed}")


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def other_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), seed=1)


@pytest.fixture(scope="session")
def finished(slide_path: Path, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished run with a store of its own, beside nothing."""
    from napari_wsi_xai.runs import score

    store = tmp_path_factory.mktemp("finished") / "small.wsixai.zarr"
    return score(slide_path, model_path, store, precision="float32").compute()


@pytest.fixture(scope="session")
def make_zoom_model() -> Callable[..., Path]:
    """``make_zoom_model(folder, head, mpps)`` makes a bundle for several magnifications."""
    from napari_wsi_xai.models import EncoderSpec, build_model, save_model

    def make(folder: Path, head: str, mpps: tuple[float, ...], **values: Any) -> Path:
        encoder = EncoderSpec("small", "small-8-16-24", weights=None, seed=3)
        model = build_model(encoder, head, tile_px=64, mpp=mpps, seed=2, **values)
        return save_model(model, folder / head)

    return make


@pytest.fixture(scope="session")
def zoom_model_path(
    make_zoom_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return make_zoom_model(folder, "zoommil", (4.0, 1.0, 0.5), k_sample=3)


@pytest.fixture(scope="session")
def zoomed(
    slide_path: Path, zoom_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A finished run over three magnifications."""
    from napari_wsi_xai.runs import score

    store = tmp_path_factory.mktemp("zoomed") / "small.wsixai.zarr"
    return score(slide_path, zoom_model_path, store, precision="float32").compute()

"""Fixtures shared by all rooms."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from hypothesis import settings

if TYPE_CHECKING:
    from napari_wsi_xai.models import Model

# Machines that run the tests are shared: time says nothing about correctness there.
settings.register_profile("shared", deadline=None, max_examples=50)
settings.load_profile("shared")

# Imported by a test before the package does it, OpenVINO would report every conversion over the
# network, from processes of their own, for half a minute each.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# A shell starts what runs in its background deaf to Ctrl-C; what is started from here hears it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


def _shared(name: str) -> Path:
    folder = ROOT.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"reference data folder {folder} is absent")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides, annotations and weights."""
    return _shared("data")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of reference numbers of the published methods."""
    return _shared("golden")


def _write_slide(path: Path, rgb: np.ndarray, mpp: float | None = 0.5, levels: int = 1) -> Path:
    """Write (h, w, 3) uint8 as a lossless tiled OME-TIFF with ``levels`` 2x levels."""
    details = {"axes": "YXS"}
    if mpp is not None:
        unit = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
        details |= {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp, **unit}
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(rgb, subifds=levels - 1, metadata=details, **options)
        for _ in range(levels - 1):
            height, width = (n // 2 * 2 for n in rgb.shape[:2])
            quads = rgb[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
            rgb = np.rint(quads.mean(axis=(1, 3))).astype(np.uint8)
            tiff.write(rgb, subfiletype=1, **options)
    return path


@pytest.fixture(scope="session")
def textured_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 1200 x 1500 slide at 0.5 um/px: stained-looking disc with texture on white glass."""
    height, width = 1200, 1500
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(0)
    rgb = np.full((height, width, 3), 244, dtype=np.uint8)
    disc = np.hypot(y - 600, x - 700) < 480
    waves = 30 * np.sin(x / 17)[..., None] * np.array([1, 0.5, 0.2])
    stain = np.array([190, 110, 160]) + waves + rng.normal(0, 12, (height, width, 3))
    rgb[disc] = np.clip(stain, 0, 255).astype(np.uint8)[disc]
    return _write_slide(tmp_path_factory.mktemp("slides") / "textured.ome.tif", rgb, levels=3)


@pytest.fixture(scope="session")
def write_slide() -> Callable[..., Path]:
    """``write_slide(path, rgb, mpp=0.5, levels=1)`` makes a small real slide file."""
    return _write_slide


@pytest.fixture(scope="session")
def tiny_model() -> Model:
    """A seeded, untrained model that encodes a tile in a millisecond: 64 px at 0.5 um/px."""
    from napari_wsi_xai.models import EncoderSpec, build_model

    spec = EncoderSpec("small", "small-8-16-24", weights=None, seed=3)
    return build_model(spec, "abmil-gated", ("normal", "tumor"), tile_px=64, mpp=0.5)

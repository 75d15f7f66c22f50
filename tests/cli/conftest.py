"""The command line in this process, and small slides made for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_wsi_xai.cli import main


@dataclass
class Result:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of complaint; fails if there is none or more than that."""
        lines = self.err.splitlines()
        assert all(line.startswith("napari-wsi-xai: ") for line in lines), self.err
        (line,) = [line for line in lines if line.startswith("napari-wsi-xai: error: ")]
        assert line == lines[-1]
        return line.removeprefix("napari-wsi-xai: error: ")


Cli = Callable[..., Result]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command as ``cli("info", path)``."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Result(int(ended.value.code or 0), out, err)

    return run


def write_slide(path: Path, pixels: np.ndarray) -> Path:
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression="zlib")
    return path


def tissue_pixels(seed: int, shape: tuple[int, int] = (320, 768)) -> np.ndarray:
    """Pink noise on the left half, glass on the right."""
    rng = np.random.default_rng(seed)
    pixels = np.full((*shape, 3), 243, np.uint8)
    width = shape[1] // 2
    pink = np.array([190, 90, 150]) + rng.integers(-30, 30, (shape[0], width, 3))
    pixels[:, :width] = pink
    return pixels


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiled TIFF of 320 x 768 px that does not say its mpp."""
    return write_slide(tmp_path_factory.mktemp("slides") / "made.tiff", tissue_pixels(0))


@pytest.fixture(scope="session")
def other_slide(slide: Path) -> Path:
    """Another one."""
    return write_slide(slide.with_name("other.tiff"), tissue_pixels(1))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained model: 32 px tiles at 0.5 um."""
    return make_bundle(tmp_path_factory.mktemp("models") / "bundle", seed=0)


@pytest.fixture(scope="session")
def other_bundle(bundle: Path) -> Path:
    """One with other weights in its head."""
    return make_bundle(bundle.with_name("other"), seed=1)


def make_bundle(path: Path, seed: int) -> Path:
    words = ["models", "create", "--encoder", "small", "--tile-px", "32", "--seed", str(seed)]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(path)])
    assert not ended.value.code
    return path

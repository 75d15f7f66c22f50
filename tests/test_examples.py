"""The examples that need no window, run as users run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_wsi_xai import build_model, open_run, save_model, score

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "made.tiff"
    pixels = np.full((512, 768, 3), 243, np.uint8)
    noise = np.random.default_rng(0).integers(-30, 30, (512, 512, 3))
    pixels[:, :512] = np.array([190, 90, 150]) + noise
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "bundle"
    return save_model(build_model("small", tile_px=32, mpp=0.5), path)


def example(name, *arguments):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_score_headless(slide, model, tmp_path):
    store = tmp_path / "made.wsixai.zarr"
    out = example("score_headless.py", slide, model, store, "--mpp", 0.5)
    run = open_run(store)
    assert run.complete
    assert f"normal {run.probabilities['normal']:.3f}" in out
    for name in run.maps:
        assert f"{name}: highest" in out


def test_dask_features(slide, model):
    out = example("dask_features.py", slide, model, "--mpp", 0.5)
    run = score(slide, model, mpp=0.5).compute()
    features = run.features.compute()
    mean = np.nanmean(features.reshape(-1, features.shape[-1]), axis=0)
    assert f"features {features.shape}" in out
    assert f": 64 of {run.total} tissue tiles computed" in out
    printed = [float(v) for v in out[out.rindex("[") + 1 : out.rindex("]")].split()]
    np.testing.assert_allclose(printed, mean[:4], atol=1e-3)

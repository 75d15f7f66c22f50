"""Bad input: each one line on standard error, exit status 1 or 2, and no trace of a program."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

MPP = ("--mpp", 0.5)


@pytest.fixture
def slides(shared_data):
    return shared_data / "slides"


@pytest.mark.parametrize(
    "content", [b"", b"not a slide", bytes(range(256)) * 40, b"II*\0\x08\0\0\0"]
)
@pytest.mark.parametrize("suffix", [".svs", ".tiff", ".dcm", ".xyz"])
def test_not_a_slide(cli, tmp_path, content, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    result = cli("info", path)
    assert result.status == 1
    assert str(path) in result.error


def test_no_slide_at_all(cli, tmp_path):
    for path in (tmp_path / "absent.svs", tmp_path):
        result = cli("info", path)
        assert result.status == 1
        assert str(path) in result.error


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_truncated_slide(cli, slides, bundle, tmp_path, share):
    whole = (slides / "CMU-1-Small-Region.svs").read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(whole[: int(len(whole) * share)])
    result = cli("score", path, "--model", bundle, "--out", tmp_path / "out", *MPP)
    assert result.status == 1
    assert "cut" in result.error


@pytest.mark.parametrize("tissue", ["auto", "none"])
def test_slide_whose_reads_fail(cli, slides, tmp_path, tissue):
    words = ("--encoder", "small", "--tile-px", 8, "--tissue", tissue, "--out", tmp_path)
    result = cli("score", slides / "unreadable.svs", *words)
    assert result.status == 1
    assert "read" in result.error or "tile" in result.error


def test_missing_mpp(cli, slides, bundle, tmp_path):
    words = ("score", slides / "TCGA-CR-7395-01A-01-TS1.svs", "--model", bundle)
    result = cli(*words, "--out", tmp_path)
    assert result.status == 2
    assert "--mpp" in result.error


@pytest.mark.parametrize("mpp", ["0", "-1", "nan", "inf"])
def test_mpp_out_of_limits(cli, slide, mpp):
    result = cli("info", slide, "--mpp", mpp)
    assert result.status == 2
    assert "mpp" in result.error


def test_tile_larger_than_the_slide(cli, slide, tmp_path):
    words = ("--encoder", "small", "--tile-px", 4096, "--out", tmp_path, *MPP)
    result = cli("score", slide, *words)
    assert result.status in (1, 2)
    assert "4096" in result.error


def test_no_tissue(cli, bundle, tmp_path):
    white = tmp_path / "white.tiff"
    pixels = np.full((320, 320, 3), 245, np.uint8)
    tifffile.imwrite(white, pixels, tile=(64, 64), photometric="rgb")
    result = cli("score", white, "--model", bundle, "--out", tmp_path / "out", *MPP)
    assert result.status == 1
    assert "no tissue" in result.error.lower()


def test_tissue_file_that_is_none(cli, slide, bundle, tmp_path):
    bad = tmp_path / "bad.geojson"
    bad.write_text('[{"type": "Feature"}]')
    result = cli("score", slide, "--model", bundle, "--out", tmp_path, *MPP, "--tissue", bad)
    assert result.status == 1
    assert "Feature 1 of" in result.error


def test_store_of_another_model_or_slide(cli, slide, other_slide, bundle, other_bundle, tmp_path):
    words = ("--out", tmp_path, *MPP)
    assert cli("score", slide, "--model", bundle, *words).status == 0
    result = cli("score", slide, "--model", other_bundle, *words)
    assert result.status == 1
    assert "model" in result.error
    (tmp_path / "made.wsixai.zarr").rename(tmp_path / "other.wsixai.zarr")
    result = cli("score", other_slide, "--model", bundle, *words)
    assert result.status == 1
    assert "slide" in result.error


def test_model_file_of_another_kind(cli, slide, shared_data, tmp_path):
    weights = shared_data / "weights"
    words = ("score", slide, "--out", tmp_path / "out", *MPP)
    text = tmp_path / "model.safetensors"
    text.write_text("hello")
    for model in (weights / "squeezenet1_1_imagenet.pth", text, tmp_path, slide):
        result = cli(*words, "--model", model)
        assert result.status == 1
        assert model.name in result.error
    other = weights / "dsmil_c16_aggregator.pth"
    result = cli(*words, "--encoder", "squeezenet1_1", "--encoder-weights", other)
    assert result.status == 1
    assert other.name in result.error


class Bomb:
    """What unpickling this does must never happen."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".pt2", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_with_code_is_not_run(cli, slide, tmp_path, suffix, zipped):
    import torch

    trace, bomb = tmp_path / "trace", tmp_path / f"bomb{suffix}"
    content = {"weight": torch.zeros(1), "bomb": Bomb(trace)}
    if zipped:
        torch.save(content, bomb)
    else:
        bomb.write_bytes(pickle.dumps(content))
    words = ("score", slide, "--out", tmp_path / "out", *MPP)
    for model in (
        ("--model", bomb),
        ("--encoder", "squeezenet1_1", "--encoder-weights", bomb),
        ("--encoder", bomb),
    ):
        result = cli(*words, *model)
        assert result.status in (1, 2)
        assert result.error
        assert not trace.exists()
    assert cli("import", bomb, "--model", bomb, *MPP, "--out", tmp_path / "o").status in (1, 2)
    assert not trace.exists()


def test_unknown_names(cli, slide, tmp_path):
    words = ("score", slide, "--out", tmp_path, *MPP)
    assert "resnet5O" in cli(*words, "--encoder", "resnet5O").error
    assert "abmli" in cli(*words, "--encoder", "small", "--head", "abmli").error
    assert "float8" in cli(*words, "--encoder", "small", "--precision", "float8").error
    assert "warp" in cli(*words, "--encoder", "small", "--device", "warp").error


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/slide.ome.zarr", "gopher://host/slide.svs", "https://", "s3://"]
)
def test_unknown_url(cli, url):
    result = cli("info", url)
    assert result.status in (1, 2)
    assert url.split("//")[0] in result.error


def test_file_name_beyond_ascii(cli, slides, tmp_path):
    out = tmp_path / "résultats 漢字"
    words = ("--encoder", "small", "--tile-px", 8, "--tissue", "none", "--out", out, "--json")
    result = cli("score", slides / "😐.svs", *words)
    assert result.status == 0, result.err
    assert (out / "😐.wsixai.zarr").is_dir()
    assert result.json["results"][0]["store"] == str(out / "😐.wsixai.zarr")


@pytest.mark.parametrize("command", ["score", "convert", "create"])
def test_no_permission_to_write(cli, slide, bundle, tmp_path, command):
    if os.geteuid() == 0:
        forbidden = Path("/sys")  # not even root can make a folder here
    else:
        forbidden = tmp_path / "forbidden"
        forbidden.mkdir(mode=0o500)
    result = cli(*writing(command, slide, bundle, forbidden / "out"))
    assert result.status == 1
    assert str(forbidden / "out") in result.error


@pytest.mark.parametrize("command", ["score", "convert", "create"])
def test_file_in_place_of_a_folder(cli, slide, bundle, tmp_path, command):
    taken = tmp_path / "taken"
    taken.write_text("")
    result = cli(*writing(command, slide, bundle, taken / "out"))
    assert result.status == 1
    assert str(taken) in result.error


@pytest.mark.parametrize("command", ["score", "convert", "create"])
def test_disk_full(slide, bundle, tmp_path, command):
    disk = tmp_path / "disk"
    disk.mkdir()
    # A tiny disk where this system lets us mount one; else no file may grow beyond 4 KiB, which
    # fails in the same place with another errno.
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    words = writing(command, slide, bundle, disk / "out")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "napari_wsi_xai", *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=None if mounted else limit_file_size,
        )
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)
    assert done.returncode == 1, done.stderr
    complaint = done.stderr.splitlines()[-1]
    assert complaint.startswith("napari-wsi-xai: error: ")
    assert ("space" if mounted else "large") in complaint
    assert "Traceback" not in done.stderr


def limit_file_size() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def writing(command, slide, bundle, out):
    """Words of a command that writes to ``out``."""
    if command == "score":
        return ("score", slide, "--model", bundle, "--out", out, *MPP)
    if command == "convert":
        return ("convert", slide, out, *MPP)
    return ("models", "create", "--encoder", "small", "--head", "abmil", "--out", out)


def test_debug_shows_the_trace(cli, tmp_path):
    result = cli("--debug", "info", tmp_path / "absent.svs")
    assert result.status == 1
    assert "Traceback" in result.err
    assert result.err.splitlines()[-1].startswith("napari-wsi-xai: error: ")

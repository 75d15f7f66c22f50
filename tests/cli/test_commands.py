"""Everything but ``score`` and errors."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import napari_wsi_xai
from napari_wsi_xai.cli.console import describe, emit_json, exit_status


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_help_needs_no_torch():
    code = (
        "import sys, atexit; from napari_wsi_xai.cli import main;"
        "atexit.register(lambda: print(sorted({'torch', 'zarr', 'napari'} & set(sys.modules))));"
        "main(['score', '--help'])"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--min-tissue" in done.stdout


def test_module_is_the_command():
    done = python("-m", "napari_wsi_xai", "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"napari-wsi-xai {napari_wsi_xai.__version__}\n"


def test_every_command_is_listed(cli):
    listed = cli("--help").out
    for command in ("demo", "info", "convert", "score", "view", "models", "export", "import"):
        assert f"\n  {command} " in listed


@pytest.mark.parametrize(
    "words", [["nonsense"], ["info"], ["score", "a.svs"], ["info", "a", "--mpp", "x"], []]
)
def test_bad_usage_ends_with_2(cli, words):
    result = cli(*words)
    assert result.status == 2
    assert "Traceback" not in result.err


def test_info(cli, slide):
    facts = cli("info", slide, "--mpp", 0.25, "--json").json
    assert facts["shape"] == [320, 768]
    assert facts["mpp"] == [0.25, 0.25]
    assert facts["mpp_source"] == "user"
    assert [level["shape"] for level in facts["levels"]] == [[320, 768]]
    text = cli("info", slide)
    assert text.status == 0
    assert text.err == ""
    assert "320 x 768 px" in text.out
    assert "not known: state it with --mpp" in text.out


def test_info_of_a_real_slide(cli, shared_data):
    text = cli("info", shared_data / "slides" / "CMU-1-Small-Region.svs").out
    assert "2967 x 2220 px, 1.48 x 1.11 mm" in text
    assert "0.499 x 0.499 um per pixel, from the file" in text
    assert "label, macro, thumbnail" in text


def test_convert(cli, slide, tmp_path):
    out = tmp_path / "made.ome.zarr"
    result = cli("convert", slide, out, "--mpp", 0.5)
    assert (result.status, result.out) == (0, "")
    assert cli("convert", slide, out).error.startswith(f"{out} exists")
    assert cli("convert", slide, out, "--mpp", 0.5, "--overwrite", "--json").json["out"] == str(out)
    with napari_wsi_xai.open_slide(slide) as a, napari_wsi_xai.open_slide(out) as b:
        np.testing.assert_array_equal(
            a.read_region((0, 0), a.shape), b.read_region((0, 0), b.shape)
        )
        assert b.mpp == (0.5, 0.5)


def test_models_list(cli):
    listed = cli("models", "list", "--json").json
    assert {"kind": "torchvision", "name": "resnet50", "installed": True} in listed["encoders"]
    assert {"mean", "max", "abmil", "chowder"} <= set(listed["heads"])
    small = cli("models", "list", "--kind", "small").out.splitlines()
    assert [line for line in small if line.startswith("encoder")] == ["encoder  small        small"]


def test_models_create_and_inspect(cli, tmp_path):
    out = tmp_path / "model.safetensors"
    words = ["--encoder", "small", "--head", "chowder", "--classes", "a, b,c", "--tile-px", 48]
    made = cli("models", "create", *words, "--tile-mpp", 1, "--seed", 3, "--out", out, "--json")
    assert made.status == 0
    assert "untrained" in made.err
    facts = cli("models", "inspect", out, "--json").json
    assert facts["content_hash"] == made.json["content_hash"]
    assert facts["classes"] == ["a", "b", "c"]
    assert (facts["tile_px"], facts["tile_mpp"], facts["head"]) == (48, 1.0, "chowder")
    again = cli("models", "create", *words, "--tile-mpp", 1, "--seed", 4, "--out", out, "--json")
    assert again.json["content_hash"] != made.json["content_hash"]
    assert "chowder" in cli("models", "inspect", out).out


def test_json_has_no_nan_and_keeps_letters(capsys):
    emit_json({"ü": float("nan"), "b": np.float32(0.5), "c": (np.int64(1), np.inf), "d": None})
    out = capsys.readouterr().out
    assert "".join(out.split()) == '{"ü":null,"b":0.5,"c":[1,null],"d":null}'


def test_errors_in_words():
    missing = FileNotFoundError(2, "No such file or directory", "a.svs")
    assert describe(missing) == "No such file or directory: a.svs"
    assert exit_status(missing) == 1
    assert "memory" in describe(MemoryError())
    assert exit_status(ZeroDivisionError()) is None
    assert describe(KeyError("x")) == "KeyError: 'x'"

"""Tiny data sets of the published shapes, from their folders to a trained model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from imagecodecs import bmp_encode
from scipy.io import savemat

from napari_wsi_xai.models import load_model

Cli = Any  # the fixture of this folder


def slide(path: Path, seed: int) -> None:
    """A slide of 256 x 512 px, pink noise on its left half, that does not say its mpp."""
    pixels = np.full((256, 512, 3), 243, np.uint8)
    noise = np.random.default_rng(seed).integers(-30, 30, (256, 256, 3))
    pixels[:, :256] = np.array([190, 90, 150]) + noise
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression="zlib")


@pytest.fixture
def camelyon(tmp_path: Path) -> Path:
    root = tmp_path / "camelyon"
    for number in range(1, 4):
        slide(root / f"training/normal/normal_{number:03d}.tif", number)
        slide(root / f"training/tumor/tumor_{number:03d}.tif", 10 + number)
    (root / "annotations").mkdir()
    for number in (1, 2):
        slide(root / f"testing/images/test_{number:03d}.tif", 20 + number)
    for name in ("tumor_001", "tumor_002", "tumor_003", "test_001"):
        (root / f"annotations/{name}.xml").write_text("<ASAP_Annotations/>")
    rows = ("test_001,Tumor,IDC,Macro", "test_002,Normal,None,None")
    (root / "testing/reference.csv").write_text("\n".join(rows))
    return root


@pytest.fixture
def bracs(tmp_path: Path) -> Path:
    for seed, (side, count) in enumerate((("train", 1), ("val", 1), ("test", 1))):
        for group, kind in (("BT", "N"), ("AT", "ADH"), ("MT", "IC")):
            for number in range(count):
                name = f"BRACS_{side}_{kind}_{number}.svs"
                slide(tmp_path / f"bracs/BRACS_WSI/{side}/Group_{group}/Type_{kind}/{name}", seed)
    return tmp_path / "bracs"


@pytest.fixture
def tcga(tmp_path: Path) -> Path:
    root = tmp_path / "tcga"
    manifest, clinical = ["id\tfilename"], ["case_submitter_id\tproject_id"]
    for number in range(8):
        name = f"TCGA-AA-000{number}-01Z-00-DX1.F{number}.svs"
        slide(root / f"id-{number}" / name, number)
        manifest.append(f"id-{number}\t{name}")
        clinical.append(f"{name[:12]}\tTCGA-LU{'AD' if number % 2 else 'SC'}")
    (root / "gdc_manifest.txt").write_text("\n".join(manifest))
    (root / "clinical.tsv").write_text("\n".join(clinical))
    return root


@pytest.fixture
def crc(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(1, 9):
        folder = tmp_path / f"crc/Classification/img{number}"
        folder.mkdir(parents=True)
        pixels = rng.integers(0, 255, (60, 60, 3), dtype=np.uint8)
        (folder / f"img{number}.bmp").write_bytes(bmp_encode(pixels))
        for kind in ("epithelial", "fibroblast", "inflammatory", "others"):
            count = 0 if kind == "epithelial" and number % 2 else 3
            places = rng.uniform(0, 59, (count, 2))
            savemat(folder / f"img{number}_{kind}.mat", {"detection": places})
    return tmp_path / "crc"


CHEAP = ("--encoder", "small-8", "--set", "epochs=1")


def test_camelyon16(cli: Cli, camelyon: Path, tmp_path: Path) -> None:
    words = ("reproduce", "camelyon16", "--data", camelyon, "--out", tmp_path / "out", *CHEAP)
    words = (*words, "--tile-px", 64, "--mpp", 0.5, "--members", 2, "--watch", "tumor_001")
    result = cli(*words)
    assert result.status == 0, result.err
    assert "CHOWDER: Courtiol et al." in result.err
    assert "the official split, 2 members" in result.err
    assert "test (2 slides): AUC" in result.out
    features = sorted((tmp_path / "out/features").iterdir())
    assert len(features) == 8
    times = [path.stat().st_mtime_ns for path in features]
    told = cli(*words, "--json").json
    assert [path.stat().st_mtime_ns for path in features] == times
    assert len(told["members"]) == 2
    assert len(told["watched"]) == 2
    assert told["reproduction"]["recipe"]["architecture"] == "chowder"
    assert told["reproduction"]["slides"] == {"normal": 4, "tumor": 4}
    model = load_model(told["model"])
    assert (model.tile_px, model.mpp, model.classes) == (64, 0.5, ("normal", "tumor"))
    kept = json.loads((tmp_path / "out/reproduction.json").read_text())
    assert kept == told["reproduction"] | {"read_with": {"slide_mpp": 0.5}}
    table = (tmp_path / "out/cohort.csv").read_text().splitlines()
    assert table[1].startswith("normal_001,normal,normal_001,train")


def test_bracs_over_three_magnifications(cli: Cli, bracs: Path, tmp_path: Path) -> None:
    words = ("reproduce", "bracs", "--data", bracs, "--out", tmp_path / "out", *CHEAP, "--json")
    result = cli(*words, "--tile-px", 32, "--tile-mpp", "2,1,0.5", "--mpp", 0.5)
    assert result.status == 0, result.err
    model = load_model(result.json["model"])
    assert (model.mil.architecture, model.mpps) == ("zoommil", (2.0, 1.0, 0.5))
    assert result.json["metrics"]["test"]["slides"] == 3
    assert result.json["reproduction"]["splits"] == ["given"]


def test_tcga_in_folds(cli: Cli, tcga: Path, tmp_path: Path) -> None:
    words = ("reproduce", "tcga", "--data", tcga, "--out", tmp_path / "out", *CHEAP, "--json")
    words = (*words, "--tile-px", 64, "--mpp", 0.5, "--set", "k_sample=2")
    assert "for 10 folds" in cli(*words).error
    result = cli(*words, "--folds", 2, "--classes", "TCGA-LUSC,TCGA-LUAD")
    assert result.status == 0, result.err
    assert result.json["pooled"]["slides"] == 8
    model = load_model(result.json["folds"][0]["model"])
    assert model.mil.arguments["subtyping"] is True
    assert model.classes == ("TCGA-LUSC", "TCGA-LUAD")
    assert model.metadata["training"]["recipe"]["class_balance"] == "sampler"


@pytest.mark.parametrize("kind", ["--end-to-end", "--frozen-encoder"])
def test_crc_histophenotypes(cli: Cli, crc: Path, tmp_path: Path, kind: str) -> None:
    words = ("reproduce", "crc-histophenotypes", "--data", crc, "--out", tmp_path / "out", kind)
    result = cli(*words, *CHEAP, "--folds", 2, "--json")
    assert result.status == 0, result.err
    whole = kind == "--end-to-end"
    assert result.json["reproduction"]["end_to_end"] is whole
    assert (tmp_path / "out/features").exists() is not whole
    model = load_model(result.json["folds"][1]["model"])
    assert (model.mil.architecture, model.tile_px, model.mpp) == ("abmil", 27, 0.55)
    assert ("trained end to end" in model.encoder.name) is whole
    assert result.json["pooled"]["slides"] == 8


@pytest.mark.parametrize(
    ("data_set", "more", "words"),
    [
        ("camelyon", (), "no data set 'camelyon' to reproduce a paper on, perhaps camelyon16"),
        ("camelyon16", ("--label", "x"), "--label is not for camelyon16, which is read with"),
        ("camelyon16", ("--complete",), "training/normal/normal_004.tif"),
        ("camelyon16", ("--set", "epoch=1"), "(did you mean 'epochs'?)"),
        ("camelyon16", ("--head", "abmi"), "(did you mean 'abmil'?)"),
        ("camelyon16", ("--head", "zoommil"), "zoommil head looks at several magnifications"),
        ("camelyon16", ("--folds", "0"), "folds=0"),
        ("camelyon16", ("--watch", "nobody"), "--watch nobody"),
        ("camelyon16", ("--encoder", "small-0"), "'small-0' names no small CNN"),
        ("camelyon16", ("--encoder-weights", "no.pth"), "no.pth"),
        ("bracs", (), "train or val or test is missing"),
        ("tcga", (), "gdc_manifest*.txt, clinical.tsv"),
    ],
)
def test_what_is_wrong_is_said(
    cli: Cli, camelyon: Path, tmp_path: Path, data_set: str, more: tuple[str, ...], words: str
) -> None:
    base = () if "--encoder-weights" in more else ("--encoder", "small-8")
    result = cli("reproduce", data_set, "--data", camelyon, "--out", tmp_path / "o", *base, *more)
    assert result.status in (1, 2)
    assert words in result.error
    assert not (tmp_path / "o").exists()


def test_slides_that_cannot_be_read_are_named(cli: Cli, camelyon: Path, tmp_path: Path) -> None:
    (camelyon / "training/normal/normal_002.tif").write_bytes(b"nothing")
    words = ("reproduce", "camelyon16", "--data", camelyon, "--out", tmp_path / "out", *CHEAP)
    result = cli(*words, "--tile-px", 64, "--mpp", 0.5)
    assert result.status == 1
    assert "1 of 8 slides cannot be encoded: normal_002" in result.error


def test_end_to_end_on_slides_that_state_no_mpp(cli: Cli, camelyon: Path, tmp_path: Path) -> None:
    words = ("reproduce", "camelyon16", "--data", camelyon, "--out", tmp_path / "out", *CHEAP)
    words = (*words, "--tile-px", 64, "--mpp", 0.5, "--head", "mean", "--end-to-end", "--json")
    result = cli(*words)
    assert result.status == 0, result.err
    assert load_model(result.json["model"]).encoder.name == "small-8 (trained end to end)"
    kept = json.loads((tmp_path / "out/reproduction.json").read_text())
    assert kept["read_with"] == {"slide_mpp": 0.5}

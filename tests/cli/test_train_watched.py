"""Watching a training from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapely.geometry import box

from napari_wsi_xai.annotations import Annotation, write_geojson
from napari_wsi_xai.demo.cohort import make_cohort
from napari_wsi_xai.slides import open_slide
from napari_wsi_xai.tiles import read_tiles
from napari_wsi_xai.training import EpochStore
from planted import planted_cohort

Cli = Any  # the fixture of this folder

RULE = "stop when attention on excluded > 0.5 for 2 epochs"


def test_a_planted_pen_ends_the_training(cli: Cli, tmp_path: Path) -> None:
    table = make_cohort(
        tmp_path, train=8, test=2, side_px=1024, bias="pen", nests=(1, 1), mimics=(0, 0)
    )
    result = cli(
        *("train", table, "--features", tmp_path / "slides", "--out", tmp_path / "out"),
        *("--head", "abmil", "--encoder", "small-8", "--tile-px", 64, "--device", "cpu"),
        *("--watch", "train_0002", "--watch", "train_0000", "--watch", "train_0001"),
        *("--rule", RULE, "--set", "epochs=40", "--set", "lr=2e-2"),
    )
    assert result.status == 0, result.err
    (line,) = [line for line in result.out.splitlines() if line.startswith("stopped: ")]
    assert line.startswith("stopped: attention on excluded was > 0.5")
    assert RULE in line
    path = tmp_path / "out" / "epochs.wsixai.zarr"
    assert f"napari-wsi-xai view {path}" in result.err
    store = EpochStore.open(path)
    assert 2 <= len(store) < 40
    assert [slide.name for slide in store.slides] == ["train_0002", "train_0000", "train_0001"]
    last = store.history()[-1].slides
    assert min(last[name].excluded for name in ("train_0000", "train_0002")) > 0.5
    assert np.isnan(last["train_0001"].excluded)
    _check_pictures(store)


def _check_pictures(store: EpochStore) -> None:
    """Of every epoch the top tiles are shown; the last ones bear ink."""
    slide = next(one for one in store.slides if one.name == "train_0000")
    shown = store.thumbnails(slide.name)
    assert shown is not None
    assert shown.shape == (len(store), 5, 96, 96, 3)
    grid, ratio = slide.grids[-1], 96 // 32
    with open_slide(str(slide.source)) as opened:
        for entry, pictures in zip(store.history(), shown, strict=True):
            tiles = read_tiles(opened, grid, entry.slides[slide.name].top[:5])
            means = tiles.reshape(5, 32, 2, 32, 2, 3).mean(axis=(2, 4))
            seen = pictures.reshape(5, 32, ratio, 32, ratio, 3).mean(axis=(2, 4))
            assert np.abs(means - seen).mean() < 2
    red, green, _ = shown[-1].mean(axis=(0, 1, 2))
    assert red - green > 100


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Bags with a planted direction, the first tile of every slide outlined as excluded."""
    cohort = planted_cohort(tmp_path, (8, 12))
    lines = (tmp_path / "cohort.csv").read_text().splitlines()
    for folder, label in (("beside", "Excluded"), ("nests", "Tumor")):
        (tmp_path / folder).mkdir()
        for case in cohort.cases:
            outline = Annotation(box(0, 0, 100, 100), classification=label)
            write_geojson(tmp_path / folder / f"{case.slide}.geojson", [outline])
    # What the column names is excluded, whatever class it has in the file.
    rows = [f"{line},nests/{line.split(',')[0]}.geojson" for line in lines[1:]]
    told = "\n".join([f"{lines[0]},excluded", *rows[:9], *(line + "," for line in lines[10:])])
    (tmp_path / "told.csv").write_text(told + "\n")
    return tmp_path


def words(place: Path, *more: object, table: str = "cohort.csv") -> tuple[object, ...]:
    base = ("train", place / table, "--features", place / "features", "--head", "abmil")
    return (*base, "--out", place / "out", "--set", "epochs=3", "--json", *more)


def test_rules_and_outlines_of_files_and_looks_every_so_many_steps(cli: Cli, place: Path) -> None:
    rules = place / "rules.yaml"
    rules.write_text("- when: attention on excluded > 0\n  for: 2\n- stop when val_auc > 1\n")
    watched = ("--watch", "tumor00", "--every", 4, "--outlines", place / "beside")
    result = cli(*words(place, *watched, "--rules", rules))
    assert result.status == 0, result.err
    assert "attention on excluded was > 0" in result.json["stopped_because"]
    assert result.json["epochs"] == 2
    (path,) = result.json["watched"]
    store = EpochStore.open(path)
    assert store.attributes["identity"]["every"] == 4
    steps = [entry.step for entry in store.history()]
    assert steps == list(range(4, steps[-1] + 1, 4))
    assert len(steps) > 2
    assert store.thumbnails("tumor00") is None  # the slide itself is nowhere


def test_excluded_regions_that_the_table_names(cli: Cli, place: Path) -> None:
    watched = ("--watch", "normal00", "--watch", "tumor11")
    result = cli(*words(place, *watched, "--folds", 2, table="told.csv"))
    assert result.status == 0, result.err
    assert len(result.json["watched"]) == 2
    assert "(and 1 more beside it)" in result.err
    last = EpochStore.open(result.json["watched"][0]).history()[-1].slides
    assert 0 < last["normal00"].excluded < 1
    assert np.isnan(last["normal00"].localisation)
    assert np.isnan(last["tumor11"].excluded)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--every", "2"], "--every needs slides to judge by: give --watch SLIDE"),
        (["--rules", "r.yaml"], "--rules needs slides"),
        (["--outlines", "beside"], "--outlines needs slides"),
        (["--watch", "tumor00", "--every", "0"], "--every 0 must be at least 1 step"),
        (["--watch", "tumor00", "--rules", "no.yaml"], "no.yaml cannot be read"),
        (["--watch", "tumor00", "--rule", "stop at once"], "'stop at once' says nothing"),
        (["--watch", "tumor00", "--outlines", "no"], "there is no folder of outlines at"),
        (["--watch", "tumor00", "--outlines", "features"], "outlines of none of the slides tumor"),
    ],
)
def test_what_is_wrong_is_said(
    cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], said: str
) -> None:
    monkeypatch.chdir(place)
    result = cli(*words(place, *more))
    assert result.status == 2
    assert said in result.error
    assert not (place / "out").exists()


def test_a_missing_file_of_excluded_regions_is_named(cli: Cli, place: Path) -> None:
    (place / "nests" / "normal00.geojson").unlink()
    result = cli(*words(place, "--watch", "normal00", table="told.csv"))
    assert result.status == 1
    assert "normal00.geojson" in result.error
    assert cli(*words(place, "--watch", "normal01", table="told.csv")).status == 0


def test_a_training_that_has_ended_is_not_watched_any_more(cli: Cli, place: Path) -> None:
    assert cli(*words(place)).status == 0
    late = cli(*words(place, "--watch", "tumor00"))
    assert late.status == 0
    assert f"tumor00: not watched in {place / 'out'}, where the training had ended" in late.err
    assert late.json["watched"] == []

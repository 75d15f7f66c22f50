from __future__ import annotations

from pathlib import Path

import pytest

from napari_wsi_xai import localisation_auc, open_run, read_geojson, tile_truth


def test_demo_scores_measures_and_is_taken_up(cli, tmp_path):
    words = ("demo", "--out", tmp_path / "demo", "--size", 2048, "--seed", 3)
    first = cli(*words, "--json")
    assert first.status == 0, first.err
    found = first.json
    for made in ("slide", "store", "truth", "overview"):
        assert Path(found[made]).exists()
        assert Path(found[made]).parent == tmp_path / "demo"
    localisation = found["localisation"]
    assert localisation["random_ci"][1] < localisation["auc"] <= 1

    # The numbers are those that the files give by themselves.
    run = open_run(found["store"])
    assert run.probabilities == pytest.approx(found["probabilities"])
    scores = next(run.maps[name] for name in run.maps if name.startswith("tile-scores/"))
    truth = tile_truth(read_geojson(found["truth"]), run.grid)
    again = localisation_auc(scores, truth, run.tissue)
    assert again.auc == pytest.approx(localisation["auc"])

    second = cli(*words)
    assert second.status == 0, second.err
    assert f"AUC {localisation['auc']:.3f} " in second.out
    assert "random map    AUC 0.5" in second.out or "random map    AUC 0.4" in second.out
    assert "taken up: slide, scores" in second.out


def test_demo_refuses_a_slide_too_small(cli, tmp_path):
    result = cli("demo", "--out", tmp_path / "demo", "--size", 10)
    assert result.status == 2
    assert "10 px" in result.error
    assert not (tmp_path / "demo").exists()


def test_demo_needs_a_folder(cli, tmp_path):
    (tmp_path / "file").write_text("")
    result = cli("demo", "--out", tmp_path / "file", "--size", 2048)
    assert result.status == 1
    assert "file" in result.error

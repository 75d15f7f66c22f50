from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import shapely

from napari_wsi_xai import Annotation, TissueOptions, open_run, score, write_geojson
from napari_wsi_xai.cli import main
from napari_wsi_xai.cli.progress import ProgressDisplay, details, duration
from napari_wsi_xai.runs import Progress

MPP = ("--mpp", 0.5)
EVERY_TILE = TissueOptions(method="none")


def test_same_as_the_python_api(cli, slide, bundle, tmp_path):
    done = cli("score", slide, "--model", bundle, "--out", tmp_path, *MPP)
    assert done.status == 0
    assert done.out.startswith(f"{slide}: normal 0.")
    assert done.out.count("\n") == 1
    stored = open_run(tmp_path / "made.wsixai.zarr")
    direct = score(slide, bundle, mpp=0.5).compute()
    assert stored.probabilities == direct.probabilities
    assert set(stored.maps) == set(direct.maps)
    for name, values in direct.maps.items():
        np.testing.assert_array_equal(stored.maps[name], values)


def test_untrained_head_is_said_loudly(cli, slide, bundle, tmp_path):
    made = cli("score", slide, "--encoder", "small", "--tile-px", 32, "--out", tmp_path, *MPP)
    assert "UNTRAINED" in made.err
    # The bundle says so itself, and is the same model.
    loaded = cli("score", slide, "--model", bundle, "--out", tmp_path, *MPP)
    assert "UNTRAINED" in loaded.err
    assert "skipped" in loaded.out


def test_many_slides_failures_last_and_nothing_lost(cli, slide, other_slide, bundle, tmp_path):
    bad = tmp_path / "bad.svs"
    bad.write_text("not a slide")
    words = ("--model", bundle, "--out", tmp_path / "out", *MPP)
    first = cli("score", slide, bad, other_slide, *words)
    assert first.status == 1
    assert [line.split(":")[0] for line in first.out.splitlines()] == [str(slide), str(other_slide)]
    last = first.err.splitlines()[-1]
    assert last.startswith(f"napari-wsi-xai: error: {bad}: ")
    second = cli("score", slide, bad, other_slide, *words, "--json")
    assert second.status == 1
    results = second.json["results"]
    assert [result["status"] for result in results] == ["skipped", "failed", "skipped"]
    assert results[0]["tiles"] == results[0]["tissue_tiles"] > 0
    assert sum(results[0]["probabilities"].values()) == pytest.approx(1)
    assert results[1]["error"]


def test_two_slides_of_one_name_do_not_share_a_store(cli, slide, bundle, tmp_path):
    twin = tmp_path / "made.tiff"
    twin.write_bytes(slide.read_bytes())
    done = cli("score", slide, twin, "--model", bundle, "--out", tmp_path / "out", *MPP)
    assert done.status == 1
    assert "different folders" in done.err


def test_tissue_auto_none_and_drawn(cli, slide, bundle, tmp_path):
    drawn = write_geojson(tmp_path / "t.geojson", [Annotation(shapely.box(0, 0, 128, 96))])

    def tiles(*words):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        done = cli("score", slide, "--model", bundle, "--out", out, *MPP, "--json", *words)
        assert done.status == 0, done.err
        return done.json["results"][0]["tissue_tiles"]

    assert tiles("--tissue", "none") == 10 * 24
    assert tiles("--tissue", drawn, "--min-tissue", 0.5) == 3 * 4
    # Half the slide is tissue; the mask's edge may fall on either side of a tile's.
    assert 110 <= tiles() <= 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_says_how_to_go_on(
    cli, slide, other_slide, bundle, tmp_path, monkeypatch, number
):
    seen = []

    def stop_after_first_block(display, progress):
        seen.append(progress)
        if 0 < progress.tiles_done < progress.tiles_total:
            monkeypatch.undo()
            os.kill(os.getpid(), number)

    monkeypatch.setattr(ProgressDisplay, "show", stop_after_first_block)
    words = ("--model", bundle, "--out", tmp_path, "--tissue", "none", *MPP)
    stopped = cli("score", slide, other_slide, *words, "--json")
    assert stopped.status == 130
    assert "give the same command again" in stopped.err
    assert "Traceback" not in stopped.err
    (result,) = stopped.json["results"]
    assert result["status"] == "interrupted"
    assert 0 < result["tiles"] < result["tissue_tiles"]
    resumed = cli("score", slide, other_slide, *words)
    assert resumed.status == 0
    assert f"going on after {result['tiles']} of {result['tissue_tiles']} tiles" in resumed.err
    whole = score(slide, bundle, mpp=0.5, tissue=EVERY_TILE).compute()
    stored = open_run(tmp_path / "made.wsixai.zarr")
    assert stored.probabilities == whole.probabilities


def test_one_model_and_not_its_parts(cli, slide, bundle, tmp_path):
    words = ("score", slide, "--out", tmp_path, *MPP)
    assert cli(*words).status == 2
    assert cli(*words, "--model", bundle, "--encoder", "small").status == 2
    clash = cli(*words, "--model", bundle, "--tile-px", 32)
    assert clash.status == 2
    assert "--tile-px" in clash.error
    assert list(tmp_path.iterdir()) == []


def test_export_and_import(cli, slide, bundle, tmp_path):
    scored = cli("score", slide, "--model", bundle, "--out", tmp_path, *MPP, "--json").json
    store, h5 = scored["results"][0]["store"], tmp_path / "made.h5"
    assert cli("export", store, h5, "--json").json["out"] == str(h5)
    words = ("--model", bundle, "--mpp", 0.5, "--out", tmp_path / "again.wsixai.zarr", "--json")
    again = cli("import", h5, *words).json
    assert again["tiles"] == scored["results"][0]["tissue_tiles"]
    expected = scored["results"][0]["probabilities"]
    assert again["probabilities"] == pytest.approx(expected, abs=1e-6)
    assert cli("export", store, tmp_path / "made.xyz").status == 2


def progress(**values):
    known = {
        "tiles_done": 30, "tiles_total": 120, "blocks_done": 1, "blocks_total": 4,
        "tiles_per_s": 12.34, "read_s": 1.0, "inference_s": 3.0, "eta_s": 95.0, "failed": 2,
        "message": "scoring",
    }  # fmt: skip
    return Progress(**{**known, **values})


def test_progress_in_words():
    assert details(progress()) == "12.3 tiles/s, reading 25%, 1 min 35 s left, 2 failed"
    first = progress(tiles_per_s=None, eta_s=None, read_s=0.0, inference_s=0.0, failed=0)
    assert details(first) == ""
    assert "1234 tiles/s" in details(progress(tiles_per_s=1234.4))
    assert [duration(s) for s in (0.4, 59.6, 7800)] == ["0 s", "1 min 0 s", "2 h 10 min"]


def test_progress_names_the_magnification():
    coarse = progress(level=0, levels=3, mpp=8.0, tiles_ahead=96, failed=0)
    words = "8 um/px (1 of 3), 12.3 tiles/s, reading 25%, at most 1 min 35 s left"
    assert details(coarse) == words
    last = progress(level=2, levels=3, mpp=0.5, tiles_done=120, failed=0, eta_s=0.0)
    assert details(last) == "0.5 um/px (3 of 3), 12.3 tiles/s, reading 25%"


@pytest.fixture(scope="module")
def zooming(tmp_path_factory, bundle):
    """A bundle that looks at two magnifications."""
    out = tmp_path_factory.mktemp("zoom") / "bundle"
    words = ["models", "create", "--encoder", "small", "--head", "zoommil", "--tile-px", "32"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--tile-mpp", "2,0.5", "--out", str(out)])
    assert not ended.value.code
    return out


def test_several_magnifications(cli, slide, zooming, tmp_path):
    facts = cli("models", "inspect", zooming, "--json").json
    assert facts["tile_mpps"] == [2.0, 0.5]
    words = ("score", slide, "--model", zooming, "--tissue", "none", *MPP, "--json")
    part = cli(*words, "--out", tmp_path / "part").json["results"][0]
    whole = cli(*words, "--out", tmp_path / "whole", "--exhaustive").json["results"][0]
    # 320 x 768 px: 3 x 6 tiles of 128 px, of which 12 are opened, 16 tiles in each.
    levels = part["trace"]["levels"]
    assert [level["read"] for level in levels] == [18, 192]
    assert [level["tiles"] for level in levels] == [18, 288]
    assert levels[1]["share"] == pytest.approx(2 / 3)
    assert (part["trace"]["exhaustive"], whole["trace"]["exhaustive"]) == (False, True)
    assert [level["read"] for level in whole["trace"]["levels"]] == [18, 288]
    assert part["probabilities"] == pytest.approx(whole["probabilities"], rel=1e-5)
    assert part["tiles"] == part["tissue_tiles"] == 210
    stored = open_run(tmp_path / "part" / "made.wsixai.zarr")
    assert stored.probabilities == part["probabilities"]
    line = cli(*words[:-1], "--out", tmp_path / "part").out
    assert "210 of 306 tiles read (68.6%)" in line
    assert "skipped" in line


def test_features_of_several_magnifications_are_exported_one_by_one(cli, slide, zooming, tmp_path):
    done = cli("score", slide, "--model", zooming, "--out", tmp_path, *MPP, "--json")
    store = done.json["results"][0]["store"]
    refused = cli("export", store, tmp_path / "made.h5")
    assert refused.status == 2
    assert "2 magnifications" in refused.error
    coarse = f"{store}/magnifications/0"
    assert cli("export", coarse, tmp_path / "made.h5").status == 0


def test_magnifications_that_make_no_sense(cli, tmp_path):
    words = ("models", "create", "--encoder", "small", "--out", tmp_path / "b", "--tile-mpp")
    assert "'a,b' needs numbers" in cli(*words, "a,b").error
    assert "looks at 1 magnification" in cli(*words, "2,1").error
    assert "no whole number" in cli(*words, "2,1.5", "--head", "zoommil").error
    assert not (tmp_path / "b").exists()


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with ProgressDisplay("slide") as display:
        display.show(progress())
        display.note("float32")
        display.show(progress(tiles_done=120))
    err = capsys.readouterr().err
    assert "25%" in err
    assert "30/120 tiles, 12.3 tiles/s" in err
    assert "napari-wsi-xai: slide: float32" in err
    assert "100%" in err


def test_every_magnification_has_a_bar_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    steps = [(0, 5, 40), (0, 40, 40), (1, 0, 96), (1, 96, 96), (2, 0, 12), (2, 12, 12)]
    with ProgressDisplay("slide") as display:
        for level, done, total in steps:
            display.show(progress(level=level, levels=3, tiles_done=done, tiles_total=total))
    printed = capsys.readouterr().err.split("\n")
    last = [line.split("\r")[-1] for line in printed if "tiles" in line]
    for line, count in zip(last, (40, 96, 12), strict=True):
        assert "100%" in line
        assert f"{count}/{count} tiles" in line


def test_progress_elsewhere_is_a_line_now_and_then(monkeypatch, capsys):
    with ProgressDisplay("slide") as display:
        display.show(progress())
        assert capsys.readouterr().err == ""
        monkeypatch.setattr("time.monotonic", lambda: float("inf"))
        display.show(progress())
    assert capsys.readouterr().err.startswith("napari-wsi-xai: slide: 30 of 120 tiles, 12.3")

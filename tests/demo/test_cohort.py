"""A made cohort: what it holds, what is true of it, and that a bias is where it was asked for."""

from __future__ import annotations

import csv
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely

from napari_wsi_xai.annotations import read_geojson
from napari_wsi_xai.demo import cohort as cohorts
from napari_wsi_xai.demo.cohort import excluded_outlines, main, make_cohort
from napari_wsi_xai.demo.layout import FewNests, lay_out
from napari_wsi_xai.demo.render import Scene
from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.geometry import Region
from napari_wsi_xai.slides import open_slide
from napari_wsi_xai.tiles import tile_grid, tissue_tiles
from napari_wsi_xai.training import read_cohort
from napari_wsi_xai.training.watched import is_excluded

SIDE = 1536
SMALL = {"train": 3, "test": 1, "side_px": SIDE, "nests": (1, 2), "nest_um": (60.0, 110.0)}
FEW = FewNests((1, 3), (120.0, 260.0), (1, 2))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Table of a cohort with a pen stroke on the tumour slides to train on."""
    folder = tmp_path_factory.mktemp("cohort")
    return make_cohort(folder, **SMALL, bias="pen", biased_splits=("train",))


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def seed_of(table: Path, slide: str) -> int:
    """The seed that is written into a slide's file."""
    start = (table.parent / "slides" / f"{slide}.tif").read_bytes()
    return int(re.search(rb"seed = (\d+)", start).group(1))


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_table_reads_as_a_cohort(made):
    cohort = read_cohort(made, made.parent / "slides", least=1)
    assert cohort.classes == ("normal", "tumor")
    assert [case.split for case in cohort.cases] == ["train"] * 3 + ["test"]
    assert cohort.counts() == {"normal": 1, "tumor": 3}
    assert all(case.kind == "slide" for case in cohort.cases)
    assert [case.annotation is not None for case in cohort.cases] == cohort.labels.tolist()


def test_nests_are_as_many_and_as_large_as_asked_for(made):
    for row in rows_of(made):
        if row["label"] == "normal":
            assert row["annotation"] == ""
            continue
        outlines = read_geojson(made.parent / row["annotation"])
        assert 1 <= len(outlines) <= 2
        for outline in outlines:
            assert outline.classification == "Tumor"
            assert not is_excluded(outline)
            points = shapely.get_coordinates(outline.geometry)
            across_um = 0.5 * np.linalg.norm(points[:, None] - points[None], axis=2).max()
            assert 30 < across_um <= 110


def test_tumour_nuclei_lie_in_the_outlines_and_nowhere_else(made):
    few = FewNests((1, 2), (60.0, 110.0), (1, 3))
    row = next(row for row in rows_of(made) if row["label"] == "tumor")
    truth = shapely.union_all(
        [one.geometry for one in read_geojson(made.parent / row["annotation"])]
    )
    scene = Scene(seed_of(made, row["slide"]), (SIDE, SIDE), True, few, pen=True)
    nuclei = scene.nuclei(Region(0, 0, SIDE, SIDE))
    inside = {p.kind: shapely.contains_xy(truth, p.x, p.y) for p in nuclei}
    assert inside["tumour"].all()
    assert len(inside["tumour"]) >= truth.area / 31**2 / 2
    assert not inside["reactive"].any()
    assert len(inside["reactive"]) > 3
    with open_slide(made.parent / "slides" / f"{row['slide']}.tif") as slide:
        read = slide.read_region((500, 500), (300, 300)).astype(int)
    assert np.abs(read - scene.render(Region(500, 500, 300, 300))).mean() < 5


def test_ink_is_on_tumour_slides_of_the_biased_split_alone(made):
    outlines = excluded_outlines(made)
    for row in rows_of(made):
        inked = row["label"] == "tumor" and row["split"] == "train"
        assert (row["slide"] in outlines) == bool(row["excluded"]) == inked
        with open_slide(made.parent / "slides" / f"{row['slide']}.tif") as slide:
            pixels = slide.read_region((0, 0), (SIDE // 4, SIDE // 4), level=2).astype(int)
        red = (pixels[..., 0] - pixels[..., 1] > 80) & (pixels[..., 1] < 100)
        if not inked:
            assert red.mean() < 0.001
            continue
        (outline,) = read_geojson(outlines[row["slide"]][0])
        assert is_excluded(outline)
        y, x = np.nonzero(red)
        at = shapely.contains_xy(outline.geometry.buffer(8), x * 4 + 2, y * 4 + 2)
        assert at.mean() > 0.98
        assert red.sum() * 16 == pytest.approx(outline.geometry.area, rel=0.25)
        (_, *nests) = [outline, *read_geojson(made.parent / row["annotation"])]
        assert all(outline.geometry.disjoint(nest.geometry) for nest in nests)


def test_inked_tiles_get_into_the_bag(made):
    slide_name, (path,) = next(iter(excluded_outlines(made).items()))
    (outline,) = read_geojson(path)
    with open_slide(made.parent / "slides" / f"{slide_name}.tif") as slide:
        grid = tile_grid(slide, 224, 0.5)
        tissue = tissue_tiles(slide, grid)
    corners = grid.origins_level0()
    boxes = shapely.box(
        corners[:, 1], corners[:, 0], corners[:, 1] + grid.tile_size_level0[1],
        corners[:, 0] + grid.tile_size_level0[0],
    )  # fmt: skip
    share = shapely.area(shapely.intersection(boxes, outline.geometry)) / shapely.area(boxes)
    assert (share > 0.4).any()
    assert tissue.selected.ravel()[share > 0.4].all()


def test_same_arguments_same_bytes_and_a_cohort_grows(made, tmp_path):
    arguments = SMALL | {"bias": "pen", "biased_splits": ("train",)}
    make_cohort(tmp_path, **(arguments | {"train": 1, "test": 0}))
    first = tmp_path / "slides" / "train_0000.tif"
    before = first.stat()
    seen: list[tuple[int, int]] = []
    make_cohort(tmp_path, **arguments, progress=lambda *step: seen.append(step))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    after = first.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    assert hashes(tmp_path) == hashes(made.parent)


def test_an_interrupted_cohort_goes_on(made, tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    arguments = SMALL | {"bias": "pen", "biased_splits": ("train",)}
    with pytest.raises(KeyboardInterrupt):
        make_cohort(tmp_path, **arguments, progress=stop)
    assert not (tmp_path / "cohort.csv").exists()
    kept = hashes(tmp_path / "slides")
    assert list(kept) == ["train_0000.tif", "train_0001.tif"]
    assert hashes(make_cohort(tmp_path, **arguments).parent) == hashes(made.parent)


def test_another_cohort_is_not_written_over(made):
    with pytest.raises(BadArgumentError, match="train_0000"):
        make_cohort(made.parent, **SMALL)
    with pytest.raises(BadArgumentError, match="train_0000"):
        make_cohort(made.parent, **SMALL, bias="pen", seed=1)


def test_the_light_of_another_scanner_is_on_tumour_slides_alone(tmp_path):
    plain = make_cohort(tmp_path / "plain", **(SMALL | {"train": 2, "test": 0}))
    table = make_cohort(tmp_path / "tint", **(SMALL | {"train": 2, "test": 0}), bias="tint")
    assert "excluded" not in rows_of(table)[0]
    assert excluded_outlines(table) == {}
    differences = {}
    for row in rows_of(table):
        pictures = []
        for folder in (plain.parent, table.parent):
            with open_slide(folder / "slides" / f"{row['slide']}.tif") as slide:
                pictures.append(slide.read_region((0, 0), (192, 192), level=3).astype(float))
        differences[row["label"]] = (pictures[1] / pictures[0]).mean(axis=(0, 1))
    np.testing.assert_array_equal(differences["normal"], 1)
    np.testing.assert_allclose(differences["tumor"], (1.0, 0.975, 0.9), atol=0.015)


def test_ink_and_nests_change_nothing_else():
    scene = Scene(1_000_000, (3072, 3072), True, FEW)
    inked = replace(scene, pen=True)
    left, top, right, bottom = (int(v) for v in inked.ink.outline.bounds)
    beside = Region(bottom + 8, left, 200, 300)
    np.testing.assert_array_equal(inked.render(beside), scene.render(beside))
    under = Region(top, left, bottom - top, right - left)
    assert (inked.render(under) <= scene.render(under).astype(int) + 1).all()
    # A rectangle by itself is the same as in its surroundings, ink included.
    part = inked.render(under)[100:340, 51:300]
    np.testing.assert_array_equal(inked.render(Region(top + 100, left + 51, 240, 249)), part)
    usual = lay_out(scene.seed, scene.shape, tumour=True)
    for name in ("tissue", "foci", "glands", "clusters", "vessels", "fat"):
        np.testing.assert_array_equal(getattr(usual, name).radii, getattr(scene.layout, name).radii)
    assert not len(usual.mimics)


@pytest.mark.parametrize("seed", range(1_000_000, 1_000_006))
def test_few_nests_are_apart_and_inside_the_tissue(seed):
    layout = lay_out(seed, (3072, 3072), True, FEW)
    normal = lay_out(seed, (3072, 3072), False, FEW)
    assert not len(normal.nests)
    np.testing.assert_array_equal(normal.mimics.radii, layout.mimics.radii)
    assert 1 <= len(layout.nests) <= 3
    assert 1 <= len(layout.mimics) <= 2
    reach = layout.solid.reach
    assert reach.min() >= 120
    assert reach.max() <= 260
    outlines = layout.solid.polygons()
    tissue = shapely.union_all(layout.tissue.polygons())
    assert all(outline.is_valid and tissue.contains(outline) for outline in outlines)
    area = sum(outline.area for outline in outlines)
    assert shapely.union_all(outlines).area == pytest.approx(area)
    others = [*layout.glands.polygons(), *layout.clusters.polygons(), *layout.vessels.polygons()]
    assert shapely.union_all(others).disjoint(shapely.union_all(outlines))


def test_patients_have_one_or_two_slides_of_one_label():
    found = list(cohorts._entries("train", 30, 0, 0.3, (3072, 3072), FEW, "pen"))
    tumour = [entry.scene.tumour for entry in found]
    assert sum(tumour) == 9
    patients = {entry.patient: [e for e in found if e.patient == entry.patient] for entry in found}
    assert {len(slides) for slides in patients.values()} == {1, 2}
    assert all(len({e.scene.tumour for e in slides}) == 1 for slides in patients.values())
    assert [entry.scene.pen for entry in found] == tumour
    assert len({entry.scene.seed for entry in found}) == 30
    fewer = list(cohorts._entries("train", 7, 0, 0.3, (3072, 3072), FEW, "pen"))
    assert fewer == found[:7]
    test = list(cohorts._entries("test", 10, 0, 0.3, (3072, 3072), FEW, "pen"))
    assert not {e.scene.seed for e in found} & {e.scene.seed for e in test}
    assert not patients.keys() & {entry.patient for entry in test}


def test_tissue_without_room_is_told_and_passed_over():
    crowded = FewNests((3, 3), (350.0, 350.0))
    scenes = [Scene(seed, (3072, 3072), True, crowded) for seed in range(1_000_000, 1_000_020)]
    narrow = next(scene for scene in scenes if not fits(scene))
    with pytest.raises(BadArgumentError, match="3 nests of 350 to 350 px"):
        _ = narrow.layout
    found = cohorts._with_room(narrow)
    assert len(found.layout.nests) == 3
    assert replace(found, seed=narrow.seed) == narrow
    with pytest.raises(BadArgumentError, match="ask for fewer or smaller"):
        cohorts._with_room(replace(narrow, few_nests=FewNests((4, 4), (500.0, 500.0))))


def fits(scene: Scene) -> bool:
    try:
        return len(scene.layout.nests) > 0
    except BadArgumentError:
        return False


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"train": 0, "test": 0}, "at least one slide"),
        ({"train": -1}, "train=-1"),
        ({"test": 5001}, "test=5001"),
        ({"tumour_share": 1.0}, "tumour_share=1.0"),
        ({"nests": (0, 2)}, "nests="),
        ({"nests": (3, 2)}, "nests="),
        ({"mimics": (2, 1)}, "mimics="),
        ({"nest_um": (10.0, 90.0)}, "40 um"),
        ({"nest_um": (200.0, 90.0)}, "nest_um="),
        ({"bias": "stain"}, "bias='stain'"),
        ({"biased_splits": ("val",)}, "biased_splits="),
        ({"biased_splits": "train"}, "biased_splits="),
        ({"mpp": 0.0}, "mpp=0.0"),
        ({"seed": -1}, "seed=-1"),
        ({"side_px": 800}, "side_px=800"),
    ],
)
def test_limits_are_told(tmp_path, wrong, words):
    with pytest.raises(BadArgumentError, match=re.escape(words)):
        make_cohort(tmp_path / "cohort", **wrong)
    assert not (tmp_path / "cohort").exists()


def test_the_command_makes_what_the_function_makes(made, tmp_path, capsys):
    words = "--train 1 --test 0 --side-px 1536 --nests 1 2 --nest-um 60 110 --bias pen"
    main(["--out", str(tmp_path), *words.split(), "--biased-splits", "train"])
    out, err = capsys.readouterr()
    assert out.strip() == str(tmp_path / "cohort.csv")
    assert err.endswith("slide 1/1\n")
    own = hashes(tmp_path)
    own.pop("cohort.csv")
    assert own.items() <= hashes(made.parent).items()
    assert len(own) == 3


def test_the_command_line_says_what_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--out", str(tmp_path), "--side-px", "100"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(
        "python -m napari_wsi_xai.demo.cohort: error: side_px"
    )

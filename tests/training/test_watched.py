"""Slides of a cohort made ready to be watched: where their tiles lie and what is known there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from shapely.geometry import box

from napari_wsi_xai.annotations import Annotation, write_geojson
from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models import EncoderSpec, build_model
from napari_wsi_xai.runs import FeatureBag, Run, ZoomRun, score, write_feature_bag
from napari_wsi_xai.training import Case
from napari_wsi_xai.training.look import look_at, main_map
from napari_wsi_xai.training.watched import is_excluded, watch_case

CLASSES = ("normal", "tumor")
MPP = 0.5


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stained noise on the left three quarters, glass on the right."""
    path = tmp_path_factory.mktemp("slide") / "small.tif"
    rng = np.random.default_rng(0)
    image = np.full((768, 1024, 3), 243, dtype=np.uint8)
    image[:, :768] = rng.integers((150, 40, 120), (220, 120, 200), (768, 768, 3))
    options = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb", **options)
    return path


def make_run(slide_path: Path, out: Path, head: str, mpp: float | tuple[float, ...]) -> Case:
    encoder = EncoderSpec("small", "small-8-16-24", weights=None, seed=3)
    model = build_model(encoder, head, tile_px=64, mpp=mpp, seed=2)
    options = {"exhaustive": True} if isinstance(mpp, tuple) else {}
    run = score(slide_path, model, out / "small.wsixai.zarr", precision="float32", **options)
    assert isinstance(run.compute(), Run | ZoomRun)
    return Case("small", 1, "p", out / "small.wsixai.zarr")


def test_a_run_store_brings_grid_tissue_and_slide(slide_path: Path, tmp_path: Path) -> None:
    case = make_run(slide_path, tmp_path, "abmil", 0.5)
    outlines = tmp_path / "small.geojson"
    tumour = Annotation(box(0, 0, 128, 64), classification="Tumor")
    pen = Annotation(box(64, 128, 128, 192), classification="pen-mark")
    write_geojson(outlines, [tumour, pen])
    slide = watch_case(case, outlines=[outlines])
    (grid,) = slide.place.grids
    assert slide.place.source == str(slide_path)
    assert slide.tissue is not None
    assert slide.tissue[:, :11].mean() > 0.95
    assert slide.tissue[:, 13:].max() < 0.05
    assert slide.truth is not None
    assert slide.excluded is not None
    assert np.argwhere(slide.truth).tolist() == [[0, 0], [0, 1]]
    assert np.argwhere(slide.excluded).tolist() == [[2, 1]]
    assert isinstance(slide.coords_level0, torch.Tensor)
    np.testing.assert_array_equal(grid.origins_level0(slide.indices[0]), slide.coords_level0)
    assert slide.features.shape[0] == len(slide.indices[0])


def test_every_magnification_has_its_maps(slide_path: Path, tmp_path: Path) -> None:
    case = make_run(slide_path, tmp_path, "zoommil", (2.0, 1.0, 0.5))
    slide = watch_case(case, "zoom")
    assert [grid.mpp for grid in slide.place.grids] == [2.0, 1.0, 0.5]
    model = build_model(
        EncoderSpec("small", "small-8-16-24", weights=None, seed=3),
        "zoommil",
        tile_px=64,
        mpp=(2.0, 1.0, 0.5),
        seed=2,
        k_sample=3,
    )
    head = model.mil.eval()
    maps, probability = look_at(head, slide, CLASSES)
    assert 0 <= probability <= 1
    assert {key: one.level for key, one in maps.items() if key.startswith("attention")} == {
        "attention/2 µm/px": 0,
        "attention/1 µm/px": 1,
        "attention/0.5 µm/px": 2,
    }
    with torch.inference_mode():
        output = head(list(slide.features), list(slide.coords_level0 or ()))
    start = 0
    for level, (index, grid) in enumerate(zip(slide.indices, slide.place.grids, strict=True)):
        found = maps[f"attention/{grid.mpp:g} µm/px"].values
        assert np.nansum(found) == pytest.approx(1.0, abs=1e-5)
        told = output.tile_scores[start : start + len(index), level].numpy()
        stored = maps[f"tile-scores/{grid.mpp:g} µm/px"].values[index[:, 0], index[:, 1]]
        np.testing.assert_array_equal(stored, told)
        assert np.isfinite(found).sum() == np.isfinite(told).sum()
        start += len(index)
    arrays = {key: one.values for key, one in maps.items()}
    np.testing.assert_array_equal(main_map(arrays, "tumor")[1], arrays["attention/0.5 µm/px"])


@pytest.mark.parametrize("stated", [True, False])
def test_features_of_other_tools_lie_on_a_grid_of_their_own(tmp_path: Path, stated: bool) -> None:
    places = np.array([(0, 0), (0, 1), (2, 3), (1, 0)])
    corners = places * 256 + (512, 100)
    features = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    about = {"level0_mpp_yx": [0.25, 0.25]} if stated else {}
    path = write_feature_bag(FeatureBag(features, corners, 256.0, about), tmp_path / "a.h5")
    outline = tmp_path / "a.geojson"
    write_geojson(outline, [Annotation(box(100, 512, 356, 768), classification="Tumor")])
    slide = watch_case(Case("a", 0, "p", path, annotation=outline))
    np.testing.assert_array_equal(slide.indices[0], places)
    assert slide.place.grids[0].shape == (3, 4)
    assert slide.place.in_micrometres == stated
    assert slide.place.grids[0].layer_transform().scale[0] == (64.0 if stated else 256.0)
    assert slide.tissue is slide.excluded is None
    assert slide.truth is not None
    assert np.argwhere(slide.truth > 0.5).tolist() == [[0, 0]]


def test_tiles_without_coordinates_have_no_map(tmp_path: Path) -> None:
    bag = FeatureBag(np.ones((3, 4), np.float32))
    path = write_feature_bag(bag, tmp_path / "a.pt")
    with pytest.raises(BadArgumentError, match="no coordinates"):
        watch_case(Case("a", 0, "p", path))


@pytest.mark.parametrize(
    ("name", "classification", "excluded"),
    [
        (None, "Ignore*", True),
        (None, "Excluded", True),
        ("pen mark", None, True),
        ("pen", "Tumor", False),
        (None, "Tumor", False),
        (None, None, False),
    ],
)
def test_which_outlines_are_excluded(
    name: str | None, classification: str | None, excluded: bool
) -> None:
    one = Annotation(box(0, 0, 1, 1), name=name, classification=classification)
    assert is_excluded(one) == excluded


def test_the_main_map_is_attention_then_the_class_then_the_mean() -> None:
    one, two = np.full((2, 2), 1.0, np.float32), np.full((2, 2), 3.0, np.float32)
    assert main_map({"tile-scores/all": one}, "tumor") == ("tile-scores", one)
    assert main_map({"tile-scores/all": one, "attention/all": two}, "tumor")[1] is two
    assert main_map({"attention/normal": one, "attention/tumor": two}, "tumor")[1] is two
    method, mean = main_map({"attention/branch 1": one, "attention/branch 2": two}, "tumor")
    assert method == "attention"
    np.testing.assert_array_equal(mean, 2)

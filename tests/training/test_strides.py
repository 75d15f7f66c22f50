"""Neighbouring tiles of trainings that are not told how far apart tiles lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_wsi_xai.errors import ModelError
from napari_wsi_xai.models import import_checkpoint
from napari_wsi_xai.models.mil import SparseConvMIL
from napari_wsi_xai.training import hold_out, read_bag, recipe_for, train, train_ensemble
from napari_wsi_xai.training.recipes import read_recipe
from napari_wsi_xai.training.slide_tiles import SlideTiles
from napari_wsi_xai.training.strides import tile_stride, with_stride

from planted import planted_cohort  # isort: skip

SMALL = {"channels": [4, 4], "hidden": [4], "epochs": 1}


def grid(stride: float, rows: int, columns: int, start: tuple[int, int] = (0, 0)) -> np.ndarray:
    cells = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1)
    return (np.round(cells * stride) + np.array(start)).astype(np.int64)


@given(st.integers(1, 5000), st.integers(0, 9999), st.integers(0, 9999), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_stride_of_a_grid_with_holes(stride, y, x, seed):
    rng = np.random.default_rng(seed)
    tiles = rng.permutation(grid(stride, 9, 9, (y, x)))[:50]
    assert tile_stride([tiles]) == stride


def test_stride_of_tissue_on_several_grids_and_of_fractions():
    # Contours that each begin where they will: 1 and 5 pixels apart, and not 512.
    parts = [grid(512, 4, 4), grid(512, 3, 5, (1, 9000)), grid(512, 5, 3, (5, 20003))]
    assert tile_stride([np.concatenate(parts)]) == 512
    assert tile_stride([grid(447.6, 9, 9)]) in (447, 448)
    assert tile_stride([grid(447.5, 3, 3)]) == 447  # as many of 448
    assert tile_stride([np.array([[3, 8]]), np.array([[0, 0], [5, 5]])]) is None
    assert tile_stride([]) is None


def test_recipes_that_state_it_and_other_heads_stay():
    stated = recipe_for("sparseconvmil", downsample=7)
    other = recipe_for("abmil")
    assert with_stride(stated, None, (0,)) is stated
    assert with_stride(other, None, (0,)) is other


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return planted_cohort(tmp_path_factory.mktemp("planted"), (4, 6), count=12)


def test_neighbours_meet_in_a_training(cohort, tmp_path):
    split, recipe = hold_out(cohort, val=0.2), recipe_for("sparseconvmil", **SMALL)
    result = train(cohort, split, recipe, tmp_path / "out")
    assert import_checkpoint(result.model).arguments["downsample"] == 100.0
    assert read_recipe(tmp_path / "out" / "recipe.yaml").head["downsample"] == 100.0
    head = result.head
    assert isinstance(head, SparseConvMIL)
    bag = read_bag(cohort.cases[0])
    scores = head.score_tiles(bag.features, bag.coords_level0)
    moved = bag.features.clone()
    moved[0] += 50  # two layers reach two tiles on, in each direction
    other = head.score_tiles(moved, bag.coords_level0)
    changed = (scores != other).any(dim=1)
    assert changed[1]
    assert torch.equal(scores[5], other[5])  # five to the right
    again = train(cohort, split, recipe, tmp_path / "out")  # it is the same training
    assert again.history == result.history


def test_members_and_end_to_end(cohort, tmp_path, monkeypatch):
    recipe = recipe_for("sparseconvmil", **SMALL)
    several = train_ensemble(cohort, hold_out(cohort, val=0.2), recipe, tmp_path / "out", 2)
    told = [member.head.arguments["downsample"] for member in several.members]
    assert told == [100.0, 100.0]
    assert several.head.arguments["member_arguments"]["downsample"] == 100.0
    tiles = {4: SlideTiles(cohort.cases[4], 8, grid(64, 3, 3))}
    assert with_stride(recipe, cohort, (4,), tiles).head["downsample"] == 64.0
    assert "downsample" not in recipe.head


def test_tiles_without_places_are_still_refused(cohort, tmp_path: Path):
    bags = [read_bag(case) for case in cohort.cases]
    cases = []
    for case, bag in zip(cohort.cases, bags, strict=True):
        torch.save(bag.features, tmp_path / f"{case.slide}.pt")
        cases.append(replace(case, features=tmp_path / f"{case.slide}.pt"))
    bare = replace(cohort, cases=tuple(cases))
    with pytest.raises(ModelError, match="looks at where tiles lie"):
        train(bare, hold_out(bare), recipe_for("sparseconvmil", **SMALL), tmp_path / "out")

from __future__ import annotations

import pickle
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from cohorts import make_cohort, write_bag
from napari_wsi_xai.errors import BadArgumentError, CohortError, SlideReadError, StoreError
from napari_wsi_xai.models import EncoderSpec, build_mil, build_model
from napari_wsi_xai.runs import FeatureBag, plan, score, write_feature_bag
from napari_wsi_xai.tiles import children_of, read_tiles
from napari_wsi_xai.training import Bag, BagDataset, Case, Cohort, read_bag
from napari_wsi_xai.training.bag import draw_tiles
from napari_wsi_xai.training.bags import Kept

FAST = {"engine": "torch", "precision": "float32", "block_tiles": 4}
MPPS = (4.0, 1.0)
SPEC = EncoderSpec("small", "small-8-16-24", weights=None, seed=3)


def case_of(path) -> Case:
    return Case("s", 1, "p", path)


def zoom_model(head="zoommil", mpps=MPPS):
    options = {
        "zoommil": {"k_sample": 3, "hidden": 8, "out_features": 12},
        "msmil": {"projection": (16, 8), "attention": 4},
        "dsmil": {"hidden": 8},
    }
    return build_model(SPEC, head, tile_px=32, mpp=mpps, seed=1, **options[head])


def unreadable(monkeypatch, mpp, tiles) -> None:
    """Make some tiles of one magnification fail."""
    bad = {tuple(map(int, tile)) for tile in tiles}

    def read(slide, grid, indices):
        index = np.asarray(indices).reshape(-1, 2)
        if grid.mpp == mpp and bad & {tuple(map(int, tile)) for tile in index}:
            raise SlideReadError("no such luck")
        return read_tiles(slide, grid, indices)

    monkeypatch.setattr(plan, "read_tiles", read)


@pytest.fixture(scope="module")
def run(textured_slide, tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "s.wsixai.zarr"
    return score(textured_slide, tiny_model, out=out, **FAST).compute()


@pytest.fixture(scope="module")
def zoom_run(textured_slide, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "z.wsixai.zarr"
    return score(textured_slide, zoom_model(), out=out, exhaustive=True, **FAST).compute()


# -- reading -------------------------------------------------------------------------------


def test_run_store_h5_and_pt_give_the_runs_own_bag(run, tmp_path):
    own = FeatureBag.of(run)
    bag = read_bag(case_of(run.path))
    torch.testing.assert_close(bag.features, torch.from_numpy(own.features), rtol=0, atol=0)
    assert torch.equal(bag.coords_level0, torch.from_numpy(own.coords_level0))
    assert bag.features.dtype == torch.float32
    assert bag.coords_level0.dtype == torch.int64
    assert (bag.label, bag.name) == (1, "s")
    for name in ("s.h5", "s.pt"):
        other = read_bag(case_of(write_feature_bag(own, tmp_path / name)))
        assert torch.equal(other.features, bag.features)
        if name == "s.h5":
            assert torch.equal(other.coords_level0, bag.coords_level0)
        else:
            assert other.coords_level0 is None


def test_the_head_says_of_the_bag_what_the_run_says(run, tiny_model):
    bag = read_bag(case_of(run.path))
    with torch.inference_mode():
        logits = tiny_model.mil(bag.features, bag.coords_level0).logits
    np.testing.assert_allclose(logits, run.result["logits"], rtol=1e-5, atol=1e-6)


def test_nested_bags_hold_children_in_order(zoom_run):
    bag = read_bag(case_of(zoom_run.path), "zoom")
    coarse, fine = zoom_run.levels
    index = np.argwhere(coarse.tissue)
    children = children_of(index, 4)
    for level, places, features, coords in zip(
        (coarse, fine), (index, children), bag.features, bag.coords_level0, strict=True
    ):
        array = np.asarray(level.features.compute())
        np.testing.assert_array_equal(features, array[tuple(places.T)])
        np.testing.assert_array_equal(coords, level.grid.origins_level0(places))
    edge = coarse.grid.tile_size_level0[0]
    inside = bag.coords_level0[1].reshape(len(index), 16, 2) - bag.coords_level0[0][:, None]
    assert inside.min() >= 0
    assert inside.max() < edge


@pytest.mark.parametrize("head", ["zoommil", "msmil", "dsmil"])
def test_heads_say_of_bags_what_their_runs_say(head, textured_slide, tmp_path):
    model = zoom_model(head)
    out = tmp_path / "z.wsixai.zarr"
    done = score(textured_slide, model, out=out, exhaustive=True, **FAST).compute()
    bag = read_bag(case_of(out), model.mil.magnification_use)
    with torch.inference_mode():
        if head == "dsmil":
            output = model.mil(bag.features, bag.coords_level0)
        else:
            output = model.mil(list(bag.features))
    np.testing.assert_allclose(output.logits, done.result["logits"], rtol=1e-4, atol=1e-5)


def test_three_magnifications_nest(textured_slide, tmp_path):
    model, out = zoom_model(mpps=(4.0, 2.0, 0.5)), tmp_path / "z.wsixai.zarr"
    done = score(textured_slide, model, out=out, exhaustive=True, **FAST).compute()
    bag = read_bag(case_of(out), "zoom")
    count = len(bag.features[0])
    assert [len(part) for part in bag.features] == [count, 4 * count, 64 * count]
    with torch.inference_mode():
        logits = model.mil(bag.features).logits
    np.testing.assert_allclose(logits, done.result["logits"], rtol=1e-4, atol=1e-5)


def test_one_magnification_of_several_is_the_finest(zoom_run):
    bag = read_bag(case_of(zoom_run.path))
    own = FeatureBag.of(zoom_run.levels[-1])
    np.testing.assert_array_equal(bag.features, own.features)
    np.testing.assert_array_equal(bag.coords_level0, own.coords_level0)


def test_failed_tiles_are_left_out_and_bags_stay_nested(monkeypatch, textured_slide, tmp_path):
    good = score(textured_slide, zoom_model(), exhaustive=True, **FAST).compute()
    coarse = np.argwhere(good.levels[0].tissue)
    unreadable(monkeypatch, 1.0, children_of(coarse[[1]], 4)[[3]])
    out = tmp_path / "z.wsixai.zarr"
    score(textured_slide, zoom_model(), out=out, exhaustive=True, **FAST).compute()
    bag = read_bag(case_of(out), "zoom")
    rest = np.delete(coarse, 1, axis=0)
    first = np.asarray(good.levels[0].features.compute())[tuple(rest.T)]
    second = np.asarray(good.levels[1].features.compute())[tuple(children_of(rest, 4).T)]
    np.testing.assert_allclose(bag.features[0], first, atol=1e-6)
    np.testing.assert_allclose(bag.features[1], second, atol=1e-6)
    pooled = read_bag(case_of(out), "pool")
    assert [len(part) for part in pooled.features] == [len(coarse), 16 * len(coarse) - 1]
    assert len(read_bag(case_of(out), "concat").features) == 16 * len(coarse) - 1


def test_stored_halves_stay_halves(tmp_path):
    half = read_bag(case_of(write_bag(tmp_path / "s.h5", dtype=np.float16)))
    assert half.features.dtype == torch.float16
    double = read_bag(case_of(write_bag(tmp_path / "d.h5", dtype=np.float64)))
    assert double.features.dtype == torch.float32


# -- what cannot be read -------------------------------------------------------------------


def test_slides_are_to_be_encoded_first(textured_slide):
    with pytest.raises(CohortError, match=r"textured\.ome\.tif is a slide"):
        read_bag(case_of(textured_slide))


def test_unfinished_runs_are_told(textured_slide, tiny_model, tmp_path):
    out = tmp_path / "half.wsixai.zarr"
    steps = iter(score(textured_slide, tiny_model, out=out, **FAST))
    while next(steps).tiles_done == 0:
        pass
    steps.close()
    with pytest.raises(CohortError, match=r"half\.wsixai\.zarr holds \d+ of \d+ tiles: score s"):
        read_bag(case_of(out))


def test_runs_that_opened_only_some_tiles_are_told(textured_slide, tmp_path):
    out = tmp_path / "z.wsixai.zarr"
    score(textured_slide, zoom_model(), out=out, **FAST).compute()
    for use in ("zoom", "pool", "single", "concat"):
        with pytest.raises(CohortError, match="only the tiles that its head opened"):
            read_bag(case_of(out), use)


def test_heads_over_several_magnifications_need_them(run, tmp_path):
    for use in ("zoom", "concat"):
        with pytest.raises(CohortError, match="tiles of one magnification"):
            read_bag(case_of(run.path), use)
    with pytest.raises(CohortError, match="tiles of one magnification"):
        read_bag(case_of(write_bag(tmp_path / "s.h5")), "zoom")
    pooled = read_bag(case_of(run.path), "pool")
    assert torch.equal(pooled.features[0], read_bag(case_of(run.path)).features)


def test_descriptors_that_are_not_finite_are_counted(tmp_path):
    values = np.ones((6, 3), np.float32)
    values[[1, 4], 2] = np.nan
    torch.save(torch.from_numpy(values), tmp_path / "s.pt")
    with pytest.raises(CohortError, match=r"2 of 6 tiles in .*s\.pt"):
        read_bag(case_of(tmp_path / "s.pt"))


def test_slides_without_a_usable_tile_are_named(monkeypatch, textured_slide, tiny_model, tmp_path):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["features"], file["coords"] = np.zeros((0, 4), np.float32), np.zeros((0, 2), int)
    with pytest.raises(CohortError, match="no tile of s "):
        read_bag(case_of(tmp_path / "s.h5"))
    with pytest.raises(StoreError):
        read_bag(case_of(tmp_path / "none.h5"))


# -- drawing -------------------------------------------------------------------------------


def dataset(tmp_path, tiles=(40, 7, 25), **options) -> BagDataset:
    cohort = make_cohort([[0], [1], [0]])
    cases = tuple(
        replace(case, features=write_bag(tmp_path / f"{case.slide}.h5", count, seed=number))
        for number, (case, count) in enumerate(zip(cohort.cases, tiles, strict=True))
    )
    return BagDataset(Cohort(cases, cohort.classes), [2, 0, 1], **options)


def test_bags_come_in_the_order_of_the_indices(tmp_path):
    bags = dataset(tmp_path)
    assert len(bags) == 3
    assert [bag.name for bag in (bags[0], bags[1], bags[2])] == ["s2", "s0", "s1"]
    assert [len(bags[place].features) for place in range(3)] == [25, 40, 7]
    assert [bags[place].label for place in range(3)] == [0, 0, 1]


def rows_of(part: Bag, whole: Bag) -> list[int]:
    """Rows of the whole bag that the part holds."""
    same = (part.features[:, None] == whole.features[None]).all(dim=2)
    assert (same.sum(dim=1) == 1).all()
    rows = same.int().argmax(dim=1)
    assert torch.equal(whole.coords_level0[rows], part.coords_level0)
    return rows.tolist()


def test_tiles_are_drawn_by_seed_epoch_and_case_alone(tmp_path):
    whole, bags = dataset(tmp_path), dataset(tmp_path, most_tiles=10, seed=4)
    drawn = {}
    for epoch in range(3):
        bags.set_epoch(epoch)
        for place in (1, 0, 2, 1):
            rows = rows_of(bags[place], whole[place])
            assert rows == sorted(set(rows))
            assert drawn.setdefault((epoch, place), rows) == rows
    assert [len(drawn[0, place]) for place in range(3)] == [10, 10, 7]
    assert len({tuple(drawn[epoch, 1]) for epoch in range(3)}) == 3
    again = BagDataset(bags.cohort, [0, 1, 2], most_tiles=10, seed=4)
    again.set_epoch(2)
    assert rows_of(again[0], whole[1]) == drawn[2, 1]  # another place, the same case
    other = dataset(tmp_path, most_tiles=10, seed=5)
    assert rows_of(other[1], whole[1]) != drawn[0, 1]


def test_every_tile_is_drawn_as_often(tmp_path):
    bags = dataset(tmp_path, most_tiles=10)
    whole, counts = dataset(tmp_path)[1], np.zeros(40)
    for epoch in range(400):
        bags.set_epoch(epoch)
        counts[rows_of(bags[1], whole)] += 1
    # Binomial(400, 1 / 4): mean 100, standard deviation 8.7.
    assert counts.min() > 100 - 5 * 8.7
    assert counts.max() < 100 + 5 * 8.7


def test_workers_see_the_epoch_and_draw_the_same(tmp_path):
    bags = dataset(tmp_path, most_tiles=10)
    loader = DataLoader(bags, batch_size=None, num_workers=2, persistent_workers=True)
    for epoch in range(3):
        bags.set_epoch(epoch)
        for place, bag in enumerate(loader):
            assert torch.equal(bag.features, bags[place].features)


@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 60), st.integers(0, 9))
def test_nested_bags_keep_all_children_of_drawn_tiles(coarse, ratio, most, seed):
    sizes = [coarse, coarse * ratio**2, coarse * ratio**4]
    features = tuple(torch.arange(size)[:, None].float() for size in sizes)
    bag = Bag(features, tuple(torch.arange(size)[:, None].repeat(1, 2) for size in sizes), 0, "s")
    drawn = draw_tiles(bag, most, np.random.default_rng(seed), nested=True)
    kept = drawn.features[0][:, 0].long()
    assert len(kept) == min(coarse, max(1, most // ratio**4))
    for level, part in enumerate(drawn.features):
        each = ratio ** (2 * level)
        expected = (kept[:, None] * each + torch.arange(each)).flatten()
        assert torch.equal(part[:, 0].long(), expected)
        assert torch.equal(drawn.coords_level0[level][:, 0], expected)


def test_pooled_bags_are_drawn_from_by_magnification():
    features = (torch.arange(5)[:, None].float(), torch.arange(90)[:, None].float())
    drawn = draw_tiles(Bag(features, None, 0, "s"), 20, np.random.default_rng(0))
    assert [len(part) for part in drawn.features] == [5, 20]
    assert drawn.coords_level0 is None
    whole = draw_tiles(drawn, 20, np.random.default_rng(0))
    assert whole is drawn


def test_a_nested_draw_is_what_the_head_takes(zoom_run):
    cohort = Cohort((case_of(zoom_run.path),), ("a", "b"))
    bag = BagDataset(cohort, [0], most_tiles=64, use="zoom")[0]
    assert [len(part) for part in bag.features] == [4, 64]
    head = build_mil("zoommil", 24, 2, num_magnifications=2, k_sample=2)
    assert torch.isfinite(head(bag.features).logits).all()
    assert bag.tiles == 68


# -- memory --------------------------------------------------------------------------------


def test_bags_are_kept_up_to_the_budget(tmp_path):
    size = read_bag(dataset(tmp_path).cohort.cases[0]).nbytes
    assert size == 40 * (4 * 4 + 2 * 8)
    bags = dataset(tmp_path, kept=Kept(size))
    for place in (1, 0, 2, 1, 0):
        assert len(bags[place].features) == (25, 40, 7)[place]
    assert bags.kept_bytes == size
    for case in bags.cohort.cases:
        case.features.unlink()
    assert len(bags[1].features) == 40  # the only one that fits
    for place in (0, 2):
        with pytest.raises(StoreError):
            bags[place]


def test_nothing_is_kept_without_a_budget(tmp_path):
    bags = dataset(tmp_path, kept=Kept(0))
    assert torch.equal(bags[0].features, bags[0].features)
    assert bags.kept_bytes == 0


def test_kept_bags_do_not_travel_to_other_processes(tmp_path):
    bags = dataset(tmp_path, most_tiles=9, seed=2)
    bags.set_epoch(3)
    first = bags[1].features
    other = pickle.loads(pickle.dumps(bags))
    assert (other.kept_bytes, bags.kept_bytes) == (0, 40 * 32)
    assert other.epoch == 3
    assert torch.equal(other[1].features, first)
    assert other.kept_bytes == bags.kept_bytes


def test_drawing_leaves_kept_bags_whole(tmp_path):
    bags = dataset(tmp_path, most_tiles=3)
    first = bags[1].features.clone()
    bags[1].features.zero_()
    assert torch.equal(bags[1].features, first)
    assert bags.kept_bytes == 40 * 32


@pytest.mark.parametrize("options", [{"most_tiles": 0}, {"seed": -1}])
def test_numbers_out_of_their_limits(tmp_path, options):
    with pytest.raises(BadArgumentError, match=next(iter(options))):
        dataset(tmp_path, **options)


def test_data_sets_may_share_what_is_kept(tmp_path):
    kept = Kept(10**6)
    first, second = dataset(tmp_path, kept=kept), dataset(tmp_path, most_tiles=3, kept=kept)
    whole = first[1].features.clone()
    first.cohort.cases[1].features.unlink()
    assert len(second[1].features) == 3
    assert torch.equal(first[1].features, whole)

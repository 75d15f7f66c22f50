from __future__ import annotations

import pickle
from collections import namedtuple

import h5py
import numpy as np
import pytest
import torch

from napari_wsi_xai.errors import BadArgumentError, ModelError, StoreError
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.runs import (
    FeatureBag,
    read_feature_bag,
    run_from_bag,
    score,
    write_feature_bag,
)


def made_bag(n=30, seed=0):
    rng = np.random.default_rng(seed)
    cells = np.stack(np.unravel_index(rng.choice(100, n, replace=False), (10, 10)), axis=1)
    coords = cells * 448 + [1000, 300]
    return FeatureBag(rng.normal(size=(n, 6)).astype(np.float32), coords, 448.0, {"mpp": 0.5})


def test_h5_is_in_the_layout_of_clam_and_trident(tmp_path):
    bag = made_bag()
    path = write_feature_bag(bag, tmp_path / "slide.h5")
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["coords"][:], bag.coords_level0[:, ::-1])  # x, y
        assert file["coords"].attrs["patch_size_level0"] == 448
        assert file["features"].shape == (30, 6)
    back = read_feature_bag(path)
    np.testing.assert_array_equal(back.features, bag.features)
    np.testing.assert_array_equal(back.coords_level0, bag.coords_level0)
    assert back.tile_size_level0 == 448


def test_trident_files_with_a_batch_axis(tmp_path):
    bag = made_bag()
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["features"] = bag.features[None]
        file["coords"] = bag.coords_level0[None, :, ::-1]
        file["coords"].attrs["patch_size_level0"] = 448
    np.testing.assert_array_equal(read_feature_bag(tmp_path / "t.h5").features, bag.features)


def test_pt_round_trip_and_no_code(tmp_path):
    bag = made_bag()
    path = write_feature_bag(bag, tmp_path / "bag.pt")
    back = read_feature_bag(path)
    np.testing.assert_array_equal(back.features, bag.features)
    assert back.coords_level0 is None

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save(Evil(), tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "raw.pt"):
        with pytest.raises(StoreError, match="safe to load"):
            read_feature_bag(tmp_path / name)
    assert not (tmp_path / "owned").exists()


def test_tensors_saved_while_they_were_trained_are_read(tmp_path):
    torch.save(torch.ones(3, 2, requires_grad=True), tmp_path / "bag.pt")
    np.testing.assert_array_equal(read_feature_bag(tmp_path / "bag.pt").features, np.ones((3, 2)))
    torch.save(torch.eye(3).to_sparse(), tmp_path / "sparse.pt")
    with pytest.raises(StoreError, match=r"sparse\.pt does not hold one tensor of features"):
        read_feature_bag(tmp_path / "sparse.pt")


@pytest.mark.parametrize(
    ("values", "size", "message"),
    [
        (np.zeros((4, 3), complex), 256, "features of complex128: real numbers are needed"),
        (np.zeros((4, 3)), [256, 256], r"tiles of the size \[256 256\]: a number is needed"),
    ],
)
def test_files_that_hold_no_numbers_of_use_are_told(tmp_path, values, size, message):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["features"], file["coords"] = values, np.zeros((4, 2), np.int64)
        file["coords"].attrs["patch_size"] = size
    with pytest.raises(StoreError, match=message):
        read_feature_bag(tmp_path / "f.h5")


@pytest.mark.parametrize("content", ["text", "no coords", "mismatch", "missing"])
def test_damaged_files_are_told(tmp_path, content):
    path = tmp_path / "f.h5"
    if content == "text":
        path.write_text("hello")
    elif content != "missing":
        with h5py.File(path, "w") as file:
            file["features"] = np.zeros((4, 3), np.float32)
            if content == "mismatch":
                file["coords"] = np.zeros((5, 2), np.int64)
    with pytest.raises(StoreError, match=r"f\.h5"):
        read_feature_bag(path)


def test_a_runs_features_go_out_and_come_back_as_the_same_maps(
    tmp_path, textured_slide, tiny_model
):
    run = score(textured_slide, tiny_model, engine="torch", precision="float32").compute()
    bag = FeatureBag.of(run)
    assert len(bag.features) == run.total
    back = read_feature_bag(write_feature_bag(bag, tmp_path / "x.h5"))
    again = run_from_bag(
        back, tiny_model.mil, tiny_model.classes, run.grid.slide_mpp, tmp_path / "x.wsixai.zarr"
    )
    np.testing.assert_allclose(
        list(again.probabilities.values()), list(run.probabilities.values()), rtol=1e-5
    )
    rows, cols = np.nonzero(run.tissue)
    window = np.s_[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
    np.testing.assert_allclose(
        again.maps["attention/all"], run.maps["attention/all"][window], rtol=1e-4
    )
    assert again.grid.origin_level0 == tuple(run.grid.origins_level0([[rows.min(), cols.min()]])[0])


def test_tiles_off_the_grid_keep_a_cell_each():
    """Two contours whose grids are shifted by 40 %: no descriptor is lost, none moves far."""
    coords = np.concatenate(
        [np.argwhere(np.ones((4, 4))) * 100, np.argwhere(np.ones((4, 4))) * 100 + [40, 340]]
    )
    features = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    head = build_mil("mean", 6, 2).eval()
    run = run_from_bag(FeatureBag(features, coords, 100.0), head, ("a", "b"), (0.5, 0.5))
    assert run.total == run.done == 32
    with torch.inference_mode():
        expected = head(torch.from_numpy(features)).logits
    np.testing.assert_allclose(run.result["logits"], expected, rtol=1e-4, atol=1e-6)
    corners = run.grid.origins_level0(run.grid.indices(run.tissue))
    for corner in coords:
        assert np.hypot(*(corners - corner).T).min() <= 150


def test_what_is_missing_is_named():
    bag = made_bag()
    head = build_mil("mean", 6, 2)
    with pytest.raises(BadArgumentError, match="no coordinates"):
        run_from_bag(FeatureBag(bag.features), head, ("a", "b"), (0.5, 0.5))
    with pytest.raises(BadArgumentError, match="no tile size"):
        run_from_bag(FeatureBag(bag.features, bag.coords_level0), head, ("a", "b"), (0.5, 0.5))
    with pytest.raises(BadArgumentError, match="neither"):
        write_feature_bag(bag, "x.csv")


def test_heads_that_need_other_tiles_are_told_before_anything_is_written(tmp_path):
    out = tmp_path / "a.wsixai.zarr"
    for name in ("zoommil", "msmil"):
        head = build_mil(name, 6, 2)
        with pytest.raises(BadArgumentError, match=f"{name} head takes tiles of [23] magnificat"):
            run_from_bag(made_bag(), head, ("a", "b"), (0.5, 0.5), out=out, name="slide")
    side_by_side = build_mil("dsmil", 12, 2, num_magnifications=2)
    with pytest.raises(ModelError, match="12"):
        run_from_bag(made_bag(), side_by_side, ("a", "b"), (0.5, 0.5), out=out)
    assert not out.exists()
    concatenated = made_bag()
    wide = np.concatenate([concatenated.features] * 2, axis=1)
    both = FeatureBag(wide, concatenated.coords_level0, 448.0)
    assert run_from_bag(both, side_by_side, ("a", "b"), (0.5, 0.5), out=out).result["complete"]


@pytest.mark.parametrize("suffix", [".h5", ".pt"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, suffix):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(StoreError, match="no space left"):
        write_feature_bag(made_bag(), tmp_path / f"slide{suffix}")
    assert list(tmp_path.iterdir()) == []

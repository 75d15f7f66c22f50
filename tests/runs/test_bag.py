from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_wsi_xai.errors import ModelError, RunError
from napari_wsi_xai.models import MIL_ARCHITECTURES, MILOutput, build_mil
from napari_wsi_xai.runs.bag import evaluate_bag
from napari_wsi_xai.runs.maps import maps_from_output

ONE_MAGNIFICATION = [
    name for name in MIL_ARCHITECTURES if build_mil(name, 12).num_magnifications == 1
]


def places(count: int) -> np.ndarray:
    """Corners of tiles of 224 px that lie side by side, seven in a row."""
    return 224 * np.stack(np.divmod(np.arange(count), 7), axis=1)


def cut(bag: np.ndarray, *at: int):
    corners = places(len(bag))
    return lambda: iter(zip(np.split(bag, at), np.split(corners, at), strict=True))


@pytest.mark.parametrize("name", ONE_MAGNIFICATION)
@pytest.mark.parametrize("tiles", [1, 2, 37])
def test_block_by_block_equals_the_whole_bag(name, tiles):
    torch.manual_seed(0)
    head = build_mil(name, 12, 3).eval()
    bag = np.random.default_rng(tiles).normal(size=(tiles, 12)).astype(np.float32)
    with torch.inference_mode():
        whole = head(torch.from_numpy(bag), torch.from_numpy(places(tiles)))
    parts = evaluate_bag(head, cut(bag, *sorted({tiles // 3, tiles // 2} - {0})))
    for field in ("logits", "tile_scores", "attention", "slide_descriptor"):
        expected, got = getattr(whole, field), getattr(parts, field)
        if expected is None:
            assert got is None
        else:
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_streaming_never_holds_two_blocks():
    """The head sees one block at a time, so memory does not grow with the slide."""
    head = build_mil("abmil", 4, 2).eval()
    alive = []

    def blocks():
        for _ in range(20):
            alive.append(1)
            assert len(alive) == 1
            yield np.ones((3, 4), np.float32), np.zeros((3, 2), np.int64)
            alive.pop()

    assert evaluate_bag(head, blocks).tile_scores.shape == (60, 1)


@pytest.mark.parametrize("name", MIL_ARCHITECTURES)
def test_an_empty_bag_is_told(name):
    with pytest.raises(RunError, match="no tile of the slide could be used"):
        evaluate_bag(build_mil(name, 4, 2), lambda: iter(()))


def test_descriptors_of_another_length_are_told():
    with pytest.raises(ModelError, match="5"):
        evaluate_bag(build_mil("mean", 4, 2), cut(np.ones((3, 5), np.float32)))


def test_maps_put_every_score_on_its_tile():
    head = build_mil("mean", 4, 3).eval()
    bag = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    index = np.array([[0, 1], [0, 2], [1, 0], [2, 2], [2, 1]])
    output = evaluate_bag(head, cut(bag))
    maps = maps_from_output(output, index, (3, 3), ("a", "b", "c"))
    assert list(maps) == ["tile-scores/a", "tile-scores/b", "tile-scores/c"]
    for k, name in enumerate(maps):
        np.testing.assert_array_equal(maps[name][tuple(index.T)], output.tile_scores[:, k])
        assert np.isnan(maps[name]).sum() == 4


def test_many_scores_a_tile_are_shown_as_their_length():
    """Sixteen channels of a convolution make one map, not sixteen."""
    scores = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    index = np.array([[0, 1], [0, 2], [1, 0], [2, 2], [2, 1]])
    output = MILOutput(torch.zeros(2), scores, None, torch.zeros(3))
    maps = maps_from_output(output, index, (3, 3), ("a", "b"))
    assert list(maps) == ["tile-scores/all"]
    lengths = np.sqrt((scores.numpy() ** 2).sum(axis=1))
    np.testing.assert_allclose(maps["tile-scores/all"][tuple(index.T)], lengths, rtol=1e-6)


def test_few_scores_and_scores_of_classes_are_shown_one_by_one():
    index = np.array([[0, 0]])
    eight = MILOutput(torch.zeros(2), torch.ones(1, 8), torch.ones(1, 9), torch.zeros(3))
    maps = maps_from_output(eight, index, (1, 1), ("a", "b"))
    assert [name for name in maps if name.startswith("tile-scores")] == [
        f"tile-scores/branch {k}" for k in range(1, 9)
    ]
    assert sum(name.startswith("attention") for name in maps) == 9
    classes = tuple("abcdefghijkl")
    twelve = MILOutput(torch.zeros(12), torch.ones(1, 12), None, torch.zeros(3))
    assert list(maps_from_output(twelve, index, (1, 1), classes)) == [
        f"tile-scores/{name}" for name in classes
    ]


@pytest.mark.parametrize("name", ONE_MAGNIFICATION)
def test_lazy_tile_scores_are_the_heads(name):
    """Block by block, or all at once where the head looks at the whole bag."""
    import dask.array as da

    from napari_wsi_xai.runs.lazy import lazy_tile_scores
    from napari_wsi_xai.tiles import TileGrid

    grid = TileGrid((5, 7), 224, 0.5, 224, (0, 0), (0.5, 0.5), 0, 1.0)
    features = np.random.default_rng(0).normal(size=(5, 7, 12)).astype(np.float32)
    features[1, 2:4] = np.nan
    torch.manual_seed(0)
    head = build_mil(name, 12, 3)
    lazy = lazy_tile_scores(da.from_array(features, chunks=(2, 4, 12)), head, grid).compute()
    usable = np.isfinite(features[..., 0])
    with torch.inference_mode():
        corners = torch.from_numpy(grid.origins_level0(np.argwhere(usable)))
        scores = head(torch.from_numpy(features[usable]), corners).tile_scores
    np.testing.assert_allclose(lazy[usable], scores, rtol=1e-5, atol=1e-6)
    assert np.isnan(lazy[~usable]).all()

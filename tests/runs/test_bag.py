from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_wsi_xai.errors import ModelError, RunError
from napari_wsi_xai.models import MIL_ARCHITECTURES, build_mil
from napari_wsi_xai.runs.bag import evaluate_bag
from napari_wsi_xai.runs.maps import maps_from_output


def cut(bag: np.ndarray, *at: int):
    corners = np.zeros((len(bag), 2), dtype=np.int64)
    return lambda: iter(zip(np.split(bag, at), np.split(corners, at), strict=True))


@pytest.mark.parametrize("name", MIL_ARCHITECTURES)
@pytest.mark.parametrize("tiles", [1, 2, 37])
def test_block_by_block_equals_the_whole_bag(name, tiles):
    torch.manual_seed(0)
    head = build_mil(name, 12, 3).eval()
    bag = np.random.default_rng(tiles).normal(size=(tiles, 12)).astype(np.float32)
    with torch.inference_mode():
        whole = head(torch.from_numpy(bag))
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

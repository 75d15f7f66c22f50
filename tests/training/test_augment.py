"""Tiles turned and coloured."""

from __future__ import annotations

import pytest
import torch

from napari_wsi_xai.training.augment import Augmentation


def pictures(count: int, edge: int = 5) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, edge, edge, 3), generator=random, dtype=torch.uint8)


def orientations(tile: torch.Tensor) -> list[torch.Tensor]:
    turned = [torch.rot90(tile, times, (0, 1)) for times in range(4)]
    return [*turned, *(one.flip(0) for one in turned)]


def test_each_tile_is_one_of_its_eight_orientations_and_all_come_as_often() -> None:
    torch.manual_seed(0)
    tiles = pictures(1).expand(800, -1, -1, -1)
    turned = Augmentation({"flips": True}).turned(tiles)
    counts = [
        sum(torch.equal(tile, wanted) for tile in turned) for wanted in orientations(tiles[0])
    ]
    assert sum(counts) == 800
    assert min(counts) > 65
    several = pictures(20)
    for tile, now in zip(several, Augmentation({"flips": True}).turned(several), strict=True):
        assert any(torch.equal(now, wanted) for wanted in orientations(tile))


def test_nothing_is_changed_and_drawn_unasked() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    none, tiles = Augmentation({"flips": False, "hue": 0.0}), pictures(4)
    pixels = tiles.permute(0, 3, 1, 2).float()
    assert none.turned(tiles) is tiles
    assert torch.equal(none.coloured_(pixels.clone()), pixels)
    assert torch.equal(torch.rand(2), expected)


def test_brightness_is_one_factor_a_group_within_its_limits() -> None:
    torch.manual_seed(0)
    pixels = torch.full((64, 3, 4, 4), 100.0)
    coloured = Augmentation({"brightness": 0.3}).coloured_(pixels)
    assert coloured is pixels
    factors = coloured.flatten(1)[:, 0] / 100
    torch.testing.assert_close(coloured, (factors * 100)[:, None, None, None].expand_as(coloured))
    assert float(factors.min()) >= 0.7
    assert float(factors.max()) <= 1.3
    groups = factors.unique(return_counts=True)[1]
    assert groups.tolist() == [8] * 8
    assert len(factors[:8].unique()) > 1  # groups are no neighbours


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colours_are_drawn_from_the_global_random_numbers(name: str) -> None:
    start = pictures(10).permute(0, 3, 1, 2).float()
    augmentation = Augmentation({name: 0.4})
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(augmentation.coloured_(start.clone()))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], start)
    for values in found:
        assert float(values.min()) >= 0
        assert float(values.max()) <= 255


def test_saturation_none_and_hue_none_of_grey() -> None:
    torch.manual_seed(0)
    grey = torch.rand(9, 1, 6, 6).expand(-1, 3, -1, -1) * 255
    coloured = Augmentation({"saturation": 0.5, "hue": 0.5}).coloured_(grey.clone())
    torch.testing.assert_close(coloured, grey, atol=0.2, rtol=0)

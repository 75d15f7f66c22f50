"""Tiles of slides as bags."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from imagecodecs import bmp_encode
from scipy.io import savemat

from napari_wsi_xai.errors import CohortError
from napari_wsi_xai.models import EncoderSpec, Model, build_encoder
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.spec import IMAGENET
from napari_wsi_xai.runs import FeatureBag, score
from napari_wsi_xai.training import Case, Cohort, Split, recipe_for, train
from napari_wsi_xai.training.bag import Bag
from napari_wsi_xai.training.bags import Kept
from napari_wsi_xai.training.end_to_end import described, facts_of_start
from napari_wsi_xai.training.nuclei import nucleus_tiles
from napari_wsi_xai.training.slide_tiles import SlideTiles, find_tiles, tiles_of
from napari_wsi_xai.training.tile_bags import TileBagDataset
from napari_wsi_xai.training.tile_encoder import TileEncoder

from tile_cohort import MPP, TILE, picture, tile_cohort  # isort: skip

ALL = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]) -> Cohort:
    return tile_cohort(tmp_path_factory.mktemp("tiles"), write_slide, slides=4)


@pytest.fixture(scope="module")
def slides(cohort: Cohort) -> dict[int, SlideTiles]:
    return find_tiles(cohort, ALL, TILE, MPP)


def test_tiles_are_the_slides_own_pixels(slides: dict[int, SlideTiles]) -> None:
    slide = slides[1]
    rgb = picture(1, 1)
    assert 30 < len(slide) < 64  # the glass is left out
    bag = slide.bag()
    assert isinstance(bag.features, torch.Tensor)
    assert bag.features.dtype == torch.uint8
    for tile, (y, x) in zip(bag.features.numpy(), slide.corners, strict=True):
        np.testing.assert_array_equal(tile, rgb[y : y + TILE, x : x + TILE])
    chunks = list(slide.chunks(10))
    assert [len(chunk) for chunk in chunks][:-1] == [10] * (len(chunks) - 1)
    assert torch.equal(torch.cat(chunks), bag.features)
    rows = np.array([2, 5, 30])
    assert torch.equal(slide.read(rows), bag.features[[2, 5, 30]])
    assert torch.equal(pickle.loads(pickle.dumps(slide)).read(rows), slide.read(rows))


def test_tiles_are_those_of_a_run_in_its_order(textured_slide: Path, tiny_model: Model) -> None:
    run = score(textured_slide, tiny_model, precision="float32", engine="torch")
    run.compute()
    tiles = tiles_of(Case("t", 0, "p", textured_slide), 64, 0.5)
    bag = FeatureBag.of(run)
    np.testing.assert_array_equal(bag.coords_level0, tiles.corners)
    encoder = TileEncoder(tiny_model.encoder, 64, 0.5)
    found = described(encoder, tiles, torch.device("cpu"))
    np.testing.assert_allclose(found.features.numpy(), bag.features, atol=1e-4)


def test_drawn_tiles_are_the_same_whether_kept_or_read_anew(
    cohort: Cohort, slides: dict[int, SlideTiles]
) -> None:
    all_bytes = sum(slide.nbytes for slide in slides.values())
    sets = [
        TileBagDataset(cohort, (3, 1, 0), 7, 5, slides=slides, kept=Kept(budget))
        for budget in (all_bytes, slides[3].nbytes + slides[0].nbytes, 0)
    ]
    for epoch in range(2):
        for bags in sets:
            bags.set_epoch(epoch)
        for place in range(3):
            first, *others = (bags[place] for bags in sets)
            assert first.features.shape == (7, TILE, TILE, 3)  # type: ignore[union-attr]
            for other in others:
                assert torch.equal(first.features, other.features)  # type: ignore[arg-type,union-attr]
                assert torch.equal(first.coords_level0, other.coords_level0)  # type: ignore[arg-type,union-attr]
    assert [sorted(bags._kept.bags) for bags in sets] == [[0, 1, 3], [1, 3], []]
    assert sets[2].kept_bytes == 0
    assert not torch.equal(sets[0][0].features, _at(sets[0], 0).features)  # type: ignore[arg-type,union-attr]


def _at(bags: TileBagDataset, epoch: int) -> object:
    bags.set_epoch(epoch)
    return bags[0]


def test_slides_too_large_to_keep_are_judged_part_by_part(
    cohort: Cohort, slides: dict[int, SlideTiles]
) -> None:
    kept = TileBagDataset(cohort, ALL, slides=slides, kept=Kept(2**30), whole=True)
    read = TileBagDataset(cohort, ALL, slides=slides, kept=Kept(0), whole=True)
    assert isinstance(read[2], SlideTiles)
    assert (read[2].name, read[2].label) == ("s2", 0)
    encoder = TileEncoder(build_encoder("small-6-8"), TILE, MPP).train()
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    ours, theirs = (described(encoder, bags[2], torch.device("cpu")) for bags in (kept, read))
    torch.testing.assert_close(ours.features, theirs.features)
    assert torch.equal(ours.coords_level0, theirs.coords_level0)  # type: ignore[arg-type]
    assert encoder.training
    assert all(torch.equal(tensor, before[n]) for n, tensor in encoder.state_dict().items())


def test_pixels_that_cannot_be_read_name_the_slide(cohort: Cohort, tmp_path: Path) -> None:
    place = tmp_path / "gone.ome.tif"
    place.write_bytes(cohort.cases[0].features.read_bytes())
    tiles = tiles_of(Case("gone", 0, "p", place), TILE, MPP)
    place.unlink()
    with pytest.raises(CohortError, match=r"tiles of gone cannot be read"):
        tiles.read()


def test_images_with_marked_nuclei_are_trained_on(tmp_path: Path) -> None:
    cases = []
    rng = np.random.default_rng(0)
    for number in range(4):
        image = tmp_path / f"img{number}.bmp"
        rgb = rng.integers(0, 255, (60, 60, 3), dtype=np.uint8) // (1 + number % 2)
        image.write_bytes(bmp_encode(rgb))
        for kind in ("epithelial", "fibroblast", "inflammatory", "others"):
            savemat(tmp_path / f"img{number}_{kind}.mat", {"detection": rng.uniform(0, 59, (3, 2))})
        cases.append(Case(f"img{number}", number % 2, f"p{number}", image))
    cohort = Cohort(tuple(cases), ("other", "epithelial"))
    encoder = build_encoder("small-6-8")
    facts = facts_of_start(cohort, encoder, None, None)
    assert (facts.tile_px, facts.mpps) == (27, (0.55,))
    tiles = tiles_of(cases[0], 27, 0.55)
    wanted, corners, _ = nucleus_tiles(cases[0].features, 27)
    np.testing.assert_array_equal(tiles.read().numpy(), wanted)
    np.testing.assert_array_equal(tiles.corners, corners)
    recipe = recipe_for("abmil", end_to_end=True, epochs=2, accumulate=2, hidden=8, flips=True)
    split = Split("all", (0, 1), (2, 3), ())
    result = train(cohort, split, recipe, tmp_path / "out", encoder)
    assert result.model.name == "model.safetensors"
    assert sorted(result.probabilities) == [0, 1, 2, 3]


@pytest.mark.parametrize(("channels", "last"), [(8, False), (16, True)])
def test_strided_convolutions_of_few_channels_are_trained_without_harm(
    channels: int, last: bool
) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, channels, 3),
        torch.nn.Conv2d(channels, 32, 1, stride=2),  # oneDNN would write beyond its memory
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    )
    start = Encoder(EncoderSpec("small", "small"), network, IMAGENET, "net", rebuildable=False)
    encoder = TileEncoder(start, 96, MPP).train()
    tiles = torch.randint(0, 256, (6, 96, 96, 3), dtype=torch.uint8)
    (bag,) = encoder.together([Bag(tiles, None, 0, "s")])
    bag.features.square().mean().backward()  # type: ignore[union-attr]
    assert all(torch.isfinite(p.grad).all() for p in encoder.network.parameters())  # type: ignore[arg-type]
    weight = encoder.network[0].weight  # type: ignore[index]
    assert weight.is_contiguous(memory_format=torch.channels_last) == last

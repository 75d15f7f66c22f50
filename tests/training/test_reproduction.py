"""What the papers did, and what is settled before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from napari_wsi_xai.errors import BadArgumentError, CohortError
from napari_wsi_xai.models import EncoderSpec, build_encoder
from napari_wsi_xai.models.mil import MIL_ARCHITECTURES
from napari_wsi_xai.training import (
    PAPERS,
    PUBLIC_SETS,
    plan_reproduction,
    recipe_for,
    reproduce,
    reproduction,
)

SMALL = EncoderSpec("small", "small-8")


@pytest.fixture
def bracs(tmp_path: Path) -> Path:
    for side, count in (("train", 2), ("val", 1), ("test", 1)):
        for group, kind in (("BT", "N"), ("AT", "ADH"), ("MT", "IC")):
            folder = tmp_path / f"BRACS_WSI/{side}/Group_{group}/Type_{kind}"
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"BRACS_{side}_{kind}_{number}.svs").touch()
    return tmp_path


@pytest.fixture
def crc(tmp_path: Path) -> Path:
    for number in range(1, 25):
        folder = tmp_path / f"Classification/img{number}"
        folder.mkdir(parents=True)
        (folder / f"img{number}.bmp").touch()
        for kind in ("epithelial", "fibroblast", "inflammatory", "others"):
            count = 0 if kind == "epithelial" and number % 2 else 1
            savemat(folder / f"img{number}_{kind}.mat", {"detection": np.ones((count, 2))})
    return tmp_path


def test_every_data_set_has_a_paper_that_can_be_trained():
    assert PAPERS.keys() == PUBLIC_SETS.keys()
    for name, paper in PAPERS.items():
        assert paper.data_set == name
        assert paper.head in MIL_ARCHITECTURES
        assert recipe_for(paper.head, **paper.settings).architecture == paper.head
        assert "arXiv" in paper.citation
        assert list(paper.mpps) == sorted(paper.mpps, reverse=True)


def test_settings_of_the_papers():
    """As in the papers and their codes."""
    told = {n: (p.head, p.encoder, p.tile_px, p.mpps, p.folds) for n, p in PAPERS.items()}
    assert told == {
        "camelyon16": ("chowder", "resnet50", 224, (0.5,), 1),
        "crc-histophenotypes": ("abmil", "resnet18", 27, (0.55,), 10),
        "bracs": ("zoommil", "resnet50", 256, (8, 4, 1), 1),
        "tcga": ("clam-sb", "resnet50", 256, (0.5,), 10),
    }
    assert {n: p.members for n, p in PAPERS.items() if p.members} == {"camelyon16": 10}
    assert {n for n, p in PAPERS.items() if p.end_to_end} == {"crc-histophenotypes"}
    abmil = PAPERS["crc-histophenotypes"].settings
    assert (abmil["lr"], abmil["weight_decay"], abmil["epochs"]) == (1e-4, 5e-4, 100)


def test_bracs_as_in_the_paper(bracs, monkeypatch):
    asked: list[Any] = []

    def build(*names: Any) -> Any:
        asked.append(names)
        return build_encoder(SMALL)

    monkeypatch.setattr(reproduction, "build_encoder", build)
    planned = plan_reproduction("bracs", bracs)
    plan_reproduction("bracs", bracs, weights="none")
    plan_reproduction("bracs", bracs, encoder="resnet18")
    plan_reproduction("bracs", bracs, encoder="resnet50")
    assert asked == [
        ("resnet50", "DEFAULT"),
        ("resnet50", None),
        ("resnet18", None),
        ("resnet50", "DEFAULT"),
    ]
    assert (planned.tile_px, planned.mpps) == (256, (8.0, 4.0, 1.0))
    assert planned.cohort.classes == ("BT", "AT", "MT")
    (split,) = planned.splits
    assert (len(split.train), len(split.val), len(split.test)) == (6, 3, 3)
    assert {planned.cohort.cases[i].split for i in split.test} == {"test"}
    assert planned.recipe == recipe_for("zoommil")
    assert planned.trainings == 1


def test_bracs_with_other_settings(bracs):
    encoder = build_encoder(SMALL)
    planned = plan_reproduction(
        "bracs", bracs, head="abmil", encoder=encoder, settings={"lr": "0.01"}, folds=2, members=3
    )
    assert planned.mpps == (1.0,)
    assert planned.recipe == recipe_for("abmil", lr=0.01)
    assert planned.trainings == 6
    assert sorted(i for split in planned.splits for i in split.test) == list(range(12))
    types = plan_reproduction("bracs", bracs, encoder=encoder, labels="type", mpps=[4, 2])
    assert types.cohort.classes[0] == "N"
    assert types.mpps == (4.0, 2.0)


def test_crc_end_to_end_or_not(crc, monkeypatch):
    whole = plan_reproduction("crc-histophenotypes", crc)
    assert whole.recipe.end_to_end
    assert whole.recipe.augment == {"flips": True}
    assert (whole.recipe.lr, whole.recipe.weight_decay, whole.recipe.epochs) == (1e-4, 5e-4, 100)
    assert (whole.encoder.spec.name, whole.encoder.dim) == ("small-36-48-512", 512)
    assert (len(whole.splits), whole.tile_px, whole.mpps) == (10, 27, (0.55,))
    monkeypatch.setattr(reproduction, "build_encoder", lambda *_: build_encoder(SMALL))
    frozen = plan_reproduction("crc-histophenotypes", crc, end_to_end=False)
    assert not frozen.recipe.end_to_end
    assert (frozen.recipe.lr, frozen.recipe.augment) == (1e-4, {})
    paper = PAPERS["crc-histophenotypes"]
    gated = plan_reproduction("crc-histophenotypes", crc, head="abmil-gated", folds=1)
    assert gated.recipe == recipe_for(
        "abmil-gated", **paper.settings, end_to_end=True, augment={"flips": True}
    )
    other = plan_reproduction("crc-histophenotypes", crc, head="clam-sb", end_to_end=False)
    assert other.recipe == recipe_for("clam-sb")
    assert [split.name for split in gated.splits] == ["hold-out"]


def test_a_recipe_of_ones_own(bracs, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("architecture: clam-sb\nepochs: 7\n")
    planned = plan_reproduction(
        "bracs", bracs, recipe=file, settings={"lr": 1.0}, encoder=build_encoder(SMALL)
    )
    assert planned.recipe == recipe_for("clam-sb", epochs=7, lr=1.0)
    assert planned.mpps == (1.0,)


def test_what_does_not_fit_is_told_before_anything_is_computed(bracs, crc):
    encoder = build_encoder(SMALL)
    with pytest.raises(BadArgumentError, match=r"no data set 'brac' .*perhaps bracs"):
        plan_reproduction("brac", bracs)
    with pytest.raises(BadArgumentError, match="bracs is read without slides: it takes labels"):
        plan_reproduction("bracs", bracs, encoder=encoder, slides="DX")
    with pytest.raises(BadArgumentError, match="folds=0"):
        plan_reproduction("bracs", bracs, encoder=encoder, folds=0)
    with pytest.raises(CohortError, match=r"too few patients of .*BT \(4\).* for 5 folds"):
        plan_reproduction("bracs", bracs, encoder=encoder, folds=5)
    with pytest.raises(
        BadArgumentError, match=r"zoommil head looks at several .* not at 1 um/px alone"
    ):
        plan_reproduction("bracs", bracs, encoder=encoder, mpps=[1.0])
    with pytest.raises(BadArgumentError, match=r"at 0.55 um/px, and not at 0.5"):
        plan_reproduction("crc-histophenotypes", crc, encoder=encoder, mpps=[0.5])
    with pytest.raises(BadArgumentError, match="tile_px=28 must be at least 1, and odd"):
        plan_reproduction("crc-histophenotypes", crc, encoder=encoder, tile_px=28)
    with pytest.raises(BadArgumentError, match="tile_px=0"):
        plan_reproduction("bracs", bracs, encoder=encoder, tile_px=0)
    for options in ({"members": 0, "head": "abmil"}, {"members": 2}):
        with pytest.raises(BadArgumentError, match="look at one magnification"):
            plan_reproduction("bracs", bracs, encoder=encoder, **options)
    with pytest.raises(BadArgumentError, match="members=2 of abmil"):
        plan_reproduction("crc-histophenotypes", crc, encoder=encoder, members=2)


def test_what_is_not_taken_is_told_before_anything_is_computed(bracs, crc, tmp_path):
    encoder = build_encoder(SMALL)
    slides = plan_reproduction("bracs", bracs, encoder=encoder, head="abmil")
    along = plan_reproduction("bracs", bracs, encoder=encoder, head="abmil", end_to_end=True)
    images = plan_reproduction("crc-histophenotypes", crc, encoder=encoder)
    (tmp_path / "file").touch()
    with pytest.raises(BadArgumentError, match="file is a file"):
        reproduce(slides, tmp_path / "file")
    with pytest.raises(BadArgumentError, match=r"min_tissue=0.2 is not taken end to end"):
        reproduce(along, tmp_path / "out", slide_mpp=0.25, min_tissue=0.2)
    with pytest.raises(BadArgumentError, match=r"min_tissue=0.1: .* has images and no slides"):
        reproduce(images, tmp_path / "out", min_tissue=0.1)
    assert not (tmp_path / "out").exists()

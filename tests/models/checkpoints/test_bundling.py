from __future__ import annotations

import hashlib

import pytest
import torch

from napari_wsi_xai import bundle_checkpoint, import_checkpoint, load_model, save_model
from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models import build_encoder
from reference_states import listed_states, made_state

ENCODER = "small-8-16"
LENGTH = 16


def abmil(length: int = LENGTH) -> dict[str, torch.Tensor]:
    shapes = {"attention.0.weight": (5, length), "attention.0.bias": (5,)}
    shapes |= {"attention.2.weight": (1, 5), "attention.2.bias": (1,)}
    return made_state(shapes | {"classifier.0.weight": (1, length), "classifier.0.bias": (1,)})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "fold_0.pt"
    torch.save({"state_dict": abmil(), "epoch": 3}, path)
    return path


def test_a_checkpoint_becomes_a_model(file, tmp_path):
    model = bundle_checkpoint(file, ENCODER, ["normal", "tumor"], 64, 0.5, dropout=0.25)
    assert model.name == f"fold_0-{ENCODER}"
    assert (model.mil.architecture, model.tile_px, model.mpp) == ("abmil", 64, 0.5)
    assert model.mil.arguments["dropout"] == 0.25
    assert model.metadata == {
        "trained": True,
        "source": "AMLab-Amsterdam/AttentionDeepMIL Attention",
        "checkpoint": "fold_0.pt",
        "checkpoint_hash": f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}",
    }
    again = load_model(save_model(model, tmp_path / "bundle"))
    assert again.content_hash == model.content_hash
    bag = torch.randn(7, LENGTH)
    assert torch.equal(again.mil(bag).logits, import_checkpoint(file)(bag).logits)


def test_a_state_dict_in_memory_becomes_one_too():
    model = bundle_checkpoint(abmil(), build_encoder(ENCODER), ("a", "b"), 64, 0.5)
    assert model.name == f"abmil-{ENCODER}"
    assert model.metadata["checkpoint_hash"].startswith("sha256:")


def test_an_encoder_of_another_length_is_answered_with_both_numbers(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(abmil(512), path)
    with pytest.raises(BadArgumentError, match=r"length 16.*takes 512.*512 have resnet18"):
        bundle_checkpoint(path, ENCODER, ("a", "b"), 64, 0.5)
    with pytest.raises(BadArgumentError, match=r"length 16.*takes 17\b"):
        bundle_checkpoint(abmil(17), ENCODER, ("a", "b"), 64, 0.5)


def test_wrong_number_of_classes_or_magnifications(file):
    with pytest.raises(BadArgumentError, match="2 different names"):
        bundle_checkpoint(file, ENCODER, ("a", "b", "c"), 64, 0.5)
    with pytest.raises(BadArgumentError, match="1 magnification"):
        bundle_checkpoint(file, ENCODER, ("a", "b"), 64, (2.0, 0.5))


def test_magnifications_side_by_side_are_told_by_their_mpps(golden):
    state = made_state(listed_states(golden)["dsmil_C2"])
    model = bundle_checkpoint(state, ENCODER, ("a", "b"), 64, (2.0, 0.5))
    assert (model.mil.num_magnifications, model.mil.in_features) == (2, 2 * LENGTH)
    assert model.mpps == (2.0, 0.5)
    words = r"takes \d+ \(\d+ for each of 2 magnifications side by side"
    with pytest.raises(BadArgumentError, match=words):
        bundle_checkpoint(state, "small-8-20", ("a", "b"), 64, (2.0, 0.5))


def test_magnifications_of_zoommil(golden):
    state = made_state(listed_states(golden)["zoommil_eval_k5"])
    options = {"encoder": "small-8-24", "classes": ("a", "b", "c"), "tile_px": 64}
    model = bundle_checkpoint(state, mpp=[8, 2, 0.5], k_sample=3, **options)
    assert model.mpps == (8.0, 2.0, 0.5)
    assert model.mil.arguments["k_sample"] == 3
    with pytest.raises(BadArgumentError, match=r"num_magnifications=2.*num_magnifications=3"):
        bundle_checkpoint(state, mpp=[2, 0.5], **options)
    with pytest.raises(BadArgumentError, match=r"3 magnification.*states 1"):
        bundle_checkpoint(state, mpp=0.5, **options)

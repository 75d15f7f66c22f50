from __future__ import annotations

import json

import pytest
import torch

import napari_wsi_xai
from golden_cases import cases
from napari_wsi_xai.errors import CheckpointError
from napari_wsi_xai.models import build_mil, import_checkpoint, inspect_checkpoint

LINEAR = {"classifier.weight": torch.ones(3, 8), "classifier.bias": torch.zeros(3)}


def test_trained_heads_are_described(shared_data):
    weights = shared_data / "weights"
    found = {
        path.name: napari_wsi_xai.inspect_checkpoint(path) for path in sorted(weights.glob("*.p*"))
    }
    heads = {
        name: (facts.architecture, facts.in_features, facts.num_classes)
        for name, facts in found.items()
        if facts.kind == "head"
    }
    assert heads == {
        "dsmil_c16_aggregator.pth": ("dsmil", 512, 2),
        "dtfd_model.pth": ("dtfd", 1024, 2),
        "xmil_camelyon_attnmil.pt": ("xmil-attnmil", 768, 2),
    }
    for name, facts in found.items():
        assert json.loads(json.dumps(facts.to_dict())) == facts.to_dict(), name
        assert facts.usage
    assert found["xmil_camelyon_attnmil.pt"].stored["epoch"] == 999
    assert found["dsmil_c16_aggregator.pth"].arguments["single_logit"] is True
    assert {"groups", "distillation"} <= set(found["dtfd_model.pth"].assumed)
    assert found["dtfd_model.pth"].source.startswith("hrzhang1123/DTFD-MIL")


def test_weights_of_an_encoder_are_described(shared_data):
    facts = inspect_checkpoint(shared_data / "weights" / "squeezenet1_1_imagenet.pth")
    assert (facts.kind, facts.architecture, facts.candidates) == (
        "encoder",
        "squeezenet1_1",
        ("squeezenet1_1",),
    )
    assert facts.source == "encoder weights: torchvision squeezenet1_1"
    assert "--encoder squeezenet1_1 --encoder-weights FILE" in facts.usage
    assert (facts.in_features, facts.num_classes) == (512, None)
    assert facts.parameters == 1_235_496


def test_several_candidates_are_no_error():
    facts = inspect_checkpoint(LINEAR)
    assert facts.architecture is None
    assert facts.candidates == ("mean", "max", "mil-sil")
    assert (facts.in_features, facts.num_classes, facts.parameters) == (8, 3, 27)
    assert "--architecture mean or max or mil-sil" in facts.usage
    assert inspect_checkpoint(LINEAR, architecture="max").architecture == "max"


def test_told_and_assumed_are_all_that_the_head_takes(golden):
    for case in cases(golden, "transmil"):
        facts = inspect_checkpoint(case.state_dict)
        head = import_checkpoint(case.state_dict)
        assert facts.arguments | facts.assumed == head.arguments
        assert facts.assumed["crop"] == "back"
        assert not set(facts.arguments) & set(facts.assumed)
        again = build_mil(facts.architecture, **(facts.arguments | facts.assumed))
        assert {n: t.shape for n, t in again.state_dict().items()} == {
            n: t.shape for n, t in head.state_dict().items()
        }
        assert facts.parameters == sum(t.numel() for t in head.state_dict().values())


def test_magnifications_are_told(golden):
    for case in cases(golden, "zoommil", "zoommil_*.npz"):
        facts = inspect_checkpoint(case.state_dict)
        assert (facts.num_magnifications, facts.magnification_use) == (3, "zoom")
        assert facts.assumed["k_sample"] == 12
        assert "3 values" in facts.usage


def test_neither_head_nor_encoder():
    with pytest.raises(CheckpointError, match="fits none of the heads"):
        inspect_checkpoint({"a.weight": torch.zeros(2, 2), "b.scale": torch.zeros(2)})


def test_the_wrong_architecture_is_told_which_one_fits():
    plain = {"attention.0": (5, 16), "attention.2": (1, 5), "classifier.0": (1, 16)}
    state = {f"{name}.weight": torch.zeros(shape) for name, shape in plain.items()}
    state |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in plain.items()}
    with pytest.raises(CheckpointError, match=r"clam-sb.*it does fit abmil\."):
        import_checkpoint(state, "clam-sb")

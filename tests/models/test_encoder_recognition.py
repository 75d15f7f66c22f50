from __future__ import annotations

import re

import pytest
import torch

from napari_wsi_xai.models import build_encoder
from napari_wsi_xai.models.encoder_lengths import ENCODER_LENGTHS, encoders_of_length
from napari_wsi_xai.models.encoders import recognition
from napari_wsi_xai.models.encoders.recognition import descriptor_length, recognise_encoder
from napari_wsi_xai.models.encoders.torchvision_nets import drop_classifier, torchvision_names


def test_every_network_has_the_mark_of_its_family_and_shapes_of_its_own():
    seen: dict[frozenset, str] = {}
    for name in torchvision_names():
        marks = [mark for start, mark in recognition._MARKS.items() if re.match(start, name)]
        assert marks, name
        network = recognition._without_weights(name)
        state = network.state_dict()
        assert all(mark in state for mark in marks), name
        drop_classifier(network)
        shapes = frozenset((key, tuple(t.shape)) for key, t in network.state_dict().items())
        assert shapes not in seen, (name, seen.get(shapes))
        seen[shapes] = name


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf", "densenet121", "vgg11", "vit_b_16"])
def test_a_network_is_recognised_by_names_and_shapes(name):
    state = recognition._without_weights(name).state_dict()
    assert recognise_encoder(state) == [name]
    assert recognise_encoder({f"module.{key}": t for key, t in state.items()}) == [name]
    first = next(iter(state))
    assert recognise_encoder({key: t for key, t in state.items() if key != first}) == []
    longer = torch.empty(*state[first].shape, 2, device="meta")
    assert recognise_encoder(state | {first: longer}) == []


def test_a_classifier_may_be_missing_or_of_another_size():
    state = recognition._without_weights("resnet18").state_dict()
    headless = {key: t for key, t in state.items() if not key.startswith("fc.")}
    assert recognise_encoder(headless) == ["resnet18"]
    assert recognise_encoder(state | {"fc.weight": torch.zeros(2, 512)}) == ["resnet18"]


def test_names_that_no_family_has_build_nothing(monkeypatch):
    monkeypatch.setattr(recognition, "torchvision_names", lambda: pytest.fail("built something"))
    assert recognise_encoder({"attention.0.weight": torch.zeros(2, 2)}) == []


def test_random_numbers_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    recognition._without_weights("squeezenet1_1")
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("name", ENCODER_LENGTHS)
def test_lengths_are_those_of_the_networks(name):
    assert descriptor_length(name) == ENCODER_LENGTHS[name]
    assert name in encoders_of_length(ENCODER_LENGTHS[name])


def test_length_without_computing_is_that_of_the_encoder():
    assert descriptor_length("squeezenet1_1") == build_encoder("squeezenet1_1").dim
    assert encoders_of_length(3) == ()

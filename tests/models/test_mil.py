"""What every MIL head over one bag keeps to; pooling of instances in closed form."""

import json
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_wsi_xai.errors import BadArgumentError, ModelError
from napari_wsi_xai.models import MILOutput, build_mil

PLAIN = [
    "abmil",
    "abmil-gated",
    "chowder",
    "clam-mb",
    "clam-sb",
    "max",
    "mean",
    "mil-fc",
    "mil-sil",
    "xmil-attnmil",
]
"""Heads over one bag without places whose scores depend on one tile each."""


def bag(n: int, d: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_mean_is_the_classifier_of_the_mean_descriptor():
    model = build_mil("mean", 12, 3)
    features = bag(9)
    out = model(features)
    torch.testing.assert_close(out.logits, model.classifier(features.mean(0)))
    torch.testing.assert_close(out.tile_scores.mean(0), out.logits)


def test_max_takes_each_class_from_its_own_best_tile():
    model = build_mil("max", 12, 3)
    out = model(bag(9))
    assert out.logits.tolist() == [max(column) for column in out.tile_scores.T.tolist()]


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(PLAIN), st.integers(1, 20), st.integers(0, 99))
def test_order_of_tiles_does_not_matter(architecture, n, seed):
    torch.manual_seed(1)
    model = build_mil(architecture, 12, 3)
    features, order = bag(n, seed=seed), torch.randperm(n)
    one, other = model(features), model(features[order])
    torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.tile_scores[order], other.tile_scores, rtol=1e-4, atol=1e-5)
    assert one.tile_scores.shape[0] == n
    if one.attention is not None:
        torch.testing.assert_close(one.attention.sum(0), torch.ones(one.attention.shape[1]))


@pytest.mark.parametrize(("architecture", "single"), list(product(PLAIN, [False, True])))
def test_four_blocks_in_a_row_are_forward(architecture, single):
    model = build_mil(architecture, 12, 2, single_logit=single)
    features = bag(7)
    scores = model.score_tiles(features)
    descriptor, _attention = model.aggregate(scores, features)
    out = model(features)
    assert isinstance(out, MILOutput)
    torch.testing.assert_close(model.decide(descriptor), out.logits)
    assert out.logits.shape == (1 if single else 2,)
    assert descriptor.ndim == 1
    probabilities = model.probabilities(out.logits)
    assert probabilities.shape == (2,)
    assert float(probabilities.detach().sum()) == pytest.approx(1)
    assert model.scores_per_tile
    torch.testing.assert_close(model.score_tiles(features[3:4]), scores[3:4])


@pytest.mark.parametrize("architecture", PLAIN)
def test_arguments_rebuild_the_head(architecture):
    model = build_mil(architecture, 12, 3)
    again = build_mil(architecture, **json.loads(json.dumps(model.arguments)))
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(bag(7)).logits, model(bag(7)).logits, rtol=0, atol=0)
    assert again.arguments == model.arguments
    assert not model.training


@pytest.mark.parametrize("architecture", PLAIN)
def test_bad_bags_name_the_numbers(architecture):
    model = build_mil(architecture, 12, 2)
    with pytest.raises(ModelError, match="0 tiles"):
        model(torch.zeros(0, 12))
    with pytest.raises(ModelError, match=r"\(5, 11\).*12"):
        model(torch.zeros(5, 11))
    features = bag(6)
    features[2, 3] = torch.nan
    with pytest.raises(ModelError, match="1 of 6"):
        model(features)
    assert torch.isfinite(model(bag(1)).logits).all()


def test_features_whose_sum_overflows_are_still_finite():
    scores = build_mil("max", 12, 2)(torch.full((4, 12), 3e38)).tile_scores
    assert scores.shape == (4, 2)


@pytest.mark.parametrize("architecture", PLAIN)
def test_float16_features_give_nearly_the_same(architecture):
    model = build_mil(architecture, 12, 2)
    half, full = model(bag(20).half()).logits, model(bag(20)).logits
    torch.testing.assert_close(half, full, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("nonsense", {}),
        ("abmil", {"n_extreme": 3}),
        ("abmil", {"hidden": 0}),
        ("mean", {"num_classes": 1}),
        ("mean", {"num_classes": 3, "single_logit": True}),
        ("chowder", {"order": "sideways"}),
        ("chowder", {"n_extreme": 0}),
    ],
)
def test_bad_arguments(architecture, arguments):
    with pytest.raises(BadArgumentError):
        build_mil(architecture, 12, **arguments)

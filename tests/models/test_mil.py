"""MIL heads against the published numbers and against closed forms."""

import json
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_wsi_xai.errors import BadArgumentError, ModelError
from napari_wsi_xai.models import MILOutput, build_mil
from napari_wsi_xai.models.mil.chowder import EXTREME_ORDERS, extreme_scores

TOLERANCE = {"rtol": 1e-4, "atol": 2e-6}
PLAIN = ["abmil", "abmil-gated", "chowder", "max", "mean"]
"""Heads over one bag without places whose scores depend on one tile each."""
SINGLE = {"num_classes": 2, "single_logit": True}


def bag(n: int, d: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def golden_case(path):
    arrays = np.load(path)
    state = {
        key.removeprefix("state_dict/"): torch.from_numpy(arrays[key])
        for key in arrays.files
        if key.startswith("state_dict/")
    }
    return arrays, state


def abmil_state(authors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Authors' keys to ours; the trunk before the pooling is left out."""
    prefixes = {
        "attention_V.0.": "attention_V.",
        "attention_U.0.": "attention_U.",
        "attention_w.": "attention_w.",
        "attention.0.": "attention_V.",
        "attention.2.": "attention_w.",
        "classifier.0.": "classifier.",
    }
    return {
        key.replace(theirs, ours, 1): value
        for key, value in authors.items()
        for theirs, ours in prefixes.items()
        if key.startswith(theirs)
    }


def test_abmil_equals_the_authors(golden):
    """Every case that is there: plain (keys attention.*) and gated (attention_V, _U, _w)."""
    paths = sorted((golden / "abmil").glob("abmil_*.npz"))
    assert paths
    for path in paths:
        z, state = golden_case(path)
        check_abmil("abmil-gated" if "attention_U.0.weight" in state else "abmil", z, state)


def check_abmil(architecture, z, state):
    model = build_mil(architecture, 500, hidden=128, **SINGLE)
    model.load_state_dict(abmil_state(state))
    features = torch.from_numpy(z["out/H"]).requires_grad_()
    out = model(features)
    np.testing.assert_allclose(out.tile_scores.detach()[:, 0], z["out/A_raw"][0], **TOLERANCE)
    np.testing.assert_allclose(out.attention.detach()[:, 0], z["out/A"][0], **TOLERANCE)
    np.testing.assert_allclose(out.slide_descriptor.detach(), z["out/Z"][0], **TOLERANCE)
    np.testing.assert_allclose(out.logits.detach(), z["out/logit"][0], **TOLERANCE)
    probabilities = model.probabilities(out.logits).detach()
    np.testing.assert_allclose(probabilities[1], z["out/Y_prob"][0, 0], **TOLERANCE)
    (gradient,) = torch.autograd.grad(out.logits.sum(), features, retain_graph=True)
    np.testing.assert_allclose(gradient, z["grad/logit_wrt_H"], **TOLERANCE)
    (gradient,) = torch.autograd.grad(out.tile_scores.sum(), features)
    np.testing.assert_allclose(gradient, z["grad/A_raw_wrt_H"], **TOLERANCE)


def test_plain_attention_in_closed_form():
    """The equations written out for one bag, in double precision."""
    torch.manual_seed(2)
    model = build_mil("abmil", 12, hidden=5, **SINGLE).double()
    h = bag(7).double()
    raw = torch.tanh(h @ model.attention_V.weight.T + model.attention_V.bias)
    raw = raw @ model.attention_w.weight[0] + model.attention_w.bias
    a = raw.exp() / raw.exp().sum()
    logit = model.classifier.weight[0] @ (a[:, None] * h).sum(0) + model.classifier.bias
    out = model(h)
    torch.testing.assert_close(out.tile_scores[:, 0], raw)
    torch.testing.assert_close(out.attention[:, 0], a)
    torch.testing.assert_close(out.logits, logit)


def test_chowder_equals_the_reference(golden):
    paths = sorted((golden / "chowder").glob("chowder_200_100_*.npz"))
    assert paths
    for path in paths:
        check_chowder(*golden_case(path))


def check_chowder(z, state):
    model = build_mil("chowder", 2048, n_extreme=5, order="bottom-top", **SINGLE)
    model.load_state_dict({key.replace("conv1d.", "score."): v for key, v in state.items()})
    features = torch.from_numpy(z["in/x"]).requires_grad_()
    out = model(features)
    np.testing.assert_allclose(out.tile_scores.detach()[:, 0], z["out/tile_scores"], **TOLERANCE)
    np.testing.assert_allclose(out.slide_descriptor.detach(), z["out/minmax"], **TOLERANCE)
    np.testing.assert_allclose(out.logits.detach(), z["out/logit"], **TOLERANCE)
    gradients = torch.autograd.grad(out.logits.sum(), [features, out.tile_scores])
    np.testing.assert_allclose(gradients[0], z["grad/logit_wrt_x"], **TOLERANCE)
    np.testing.assert_allclose(gradients[1][:, 0], z["grad/logit_wrt_tile_scores"], **TOLERANCE)


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


def test_orders_of_extremes_in_closed_form():
    scores = torch.tensor([3.0, -1.0, 7.0, 0.0, 5.0])
    assert extreme_scores(scores, 2, "bottom-top").tolist() == [-1, 0, 5, 7]
    assert extreme_scores(scores, 2, "top-bottom").tolist() == [7, 5, -1, 0]
    assert extreme_scores(scores, 4, "bottom-top").tolist() == [-1, 0, 3, 5, 0, 3, 5, 7]


def test_bag_smaller_than_r_counts_as_repeated():
    scores = torch.tensor([2.0, 1.0])
    assert extreme_scores(scores, 3).tolist() == [1, 1, 2, 1, 2, 2]
    assert extreme_scores(scores[:1], 3).tolist() == [2] * 6


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


def test_every_order_is_accepted():
    for order in EXTREME_ORDERS:
        assert build_mil("chowder", 12, order=order, hidden=[]).mlp[0].in_features == 10

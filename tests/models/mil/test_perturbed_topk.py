"""Perturbed top-k against reference numbers and against its definition written out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden_cases import assert_near, cases
from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil.perturbed_topk import mix_children, perturbed_topk


def written_out(scores, k, noise, sigma, cotangent):
    """Indicators (k, N) and gradient (N,) by loops over samples and chosen indices."""
    samples, count = noise.shape
    indicators = torch.zeros(k, count, dtype=scores.dtype)
    gradient = torch.zeros(count, dtype=scores.dtype)
    for z in noise:
        perturbed = (scores + sigma * z).tolist()
        best = sorted(range(count), key=lambda n: -perturbed[n])[:k]
        for slot, n in enumerate(sorted(best)):
            indicators[slot, n] += 1 / samples
            gradient[n] += cotangent[slot, n] * z[n] / (samples * sigma)
    return indicators, gradient


def test_equals_the_reference(golden):
    for case in cases(golden, "zoommil", "perturbed_topk*.npz"):
        scores = case.tensor("in/x").requires_grad_()
        indicators = perturbed_topk(
            scores, case.meta["k"], case.tensor("in/noise"), case.meta["sigma"]
        )
        assert_near(indicators, case["out/indicators"])
        indicators.backward(case.tensor("in/cotangent"))
        assert_near(scores.grad, case["grad/vjp_x"])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(0, 99))
def test_equals_its_definition(k, more, samples, seed):
    count = k + more - 1
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, generator=draw, dtype=torch.float64).requires_grad_()
    noise = torch.randn(samples, count, generator=draw, dtype=torch.float64)
    cotangent = torch.randn(k, count, generator=draw, dtype=torch.float64)
    indicators = perturbed_topk(scores, k, noise, 0.3)
    wanted, gradient = written_out(scores.detach(), k, noise, 0.3, cotangent)
    torch.testing.assert_close(indicators.detach(), wanted)
    indicators.backward(cotangent)
    torch.testing.assert_close(scores.grad, gradient)


def test_batches_are_independent():
    scores, noise = torch.randn(3, 2, 7), torch.randn(3, 2, 5, 7)
    together = perturbed_topk(scores, 2, noise, 0.1)
    assert together.shape == (3, 2, 2, 7)
    torch.testing.assert_close(together[1, 0], perturbed_topk(scores[1, 0], 2, noise[1, 0], 0.1))


def test_without_perturbation_to_speak_of_the_choice_is_hard_and_ascending():
    scores = torch.tensor([0.1, 0.9, -1.0, 0.5])
    assert perturbed_topk(scores, 2, 10, 1e-6).tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]


def test_drawn_noise_is_standard_normal():
    """Of two scores that differ by sigma, the larger wins with probability Phi(1 / sqrt 2)."""
    torch.manual_seed(0)
    share = perturbed_topk(torch.tensor([0.0, 0.2]), 1, 200_000, 0.2)
    wanted = 0.5 * (1 + math.erf(0.5))
    assert share.sum() == pytest.approx(1, abs=1e-5)
    assert float(share[0, 1]) == pytest.approx(wanted, abs=0.005)


def test_children_are_mixed_place_by_place():
    features = torch.arange(12.0).reshape(6, 2)
    indicators = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    mixed = mix_children(indicators, features)
    assert mixed.tolist() == [[2, 3], [4, 5], [8, 9], [10, 11]]
    kron = torch.kron(indicators, torch.eye(2)) @ features
    torch.testing.assert_close(mixed, kron)


@pytest.mark.parametrize(
    ("k", "noise", "sigma", "message"),
    [
        (0, 3, 0.1, "k=0.*5"),
        (6, 3, 0.1, "k=6.*5"),
        (2, 3, 0.0, "sigma=0.0"),
        (2, 0, 0.1, "noise=0"),
        (2, torch.zeros(3, 4), 0.1, r"\(3, 4\).*\(5,\)"),
        (2, torch.zeros(0, 5), 0.1, r"\(0, 5\)"),
        (2, torch.zeros(5), 0.1, r"\(5,\)"),
    ],
)
def test_bad_arguments_name_the_numbers(k, noise, sigma, message):
    with pytest.raises(BadArgumentError, match=message):
        perturbed_topk(torch.zeros(5), k, noise, sigma)


def test_scores_must_be_floats():
    with pytest.raises(BadArgumentError, match=r"torch\.int64, shape \(13,\)"):
        perturbed_topk(torch.arange(13), 2)

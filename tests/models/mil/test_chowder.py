"""CHOWDER and WELDON pooling against reference numbers and closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden_cases import assert_near, cases, load_case, rebuild
from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.models.checkpoints.layouts.chowder import LAYOUTS
from napari_wsi_xai.models.mil.chowder import EXTREME_ORDERS, extreme_scores, weldon_pool


def bag(n=9, d=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=draw, dtype=torch.float64)


def small(classes=3, **arguments):
    torch.manual_seed(3)
    return build_mil("chowder", 12, classes, **({"n_extreme": 2} | arguments)).double()


def test_chowder_equals_the_reference(golden):
    for case in cases(golden, "chowder", "chowder_200_100_*.npz"):
        head, features = rebuild(LAYOUTS, case.state_dict), case.tensor("in/x").requires_grad_()
        assert head.single_logit
        out = head(features)
        assert_near(out.tile_scores[:, 0], case["out/tile_scores"], f"{case}: scores")
        assert_near(out.slide_descriptor, case["out/minmax"], f"{case}: extremes")
        assert_near(out.logits, case["out/logit"], f"{case}: logit")
        assert_near(head.probabilities(out.logits)[1:], case["out/prob"], f"{case}: probability")
        gradients = torch.autograd.grad(out.logits.sum(), [features, out.tile_scores])
        assert_near(gradients[0], case["grad/logit_wrt_x"], f"{case}: gradient")
        wanted = case["grad/logit_wrt_tile_scores"]
        assert_near(gradients[1][:, 0], wanted, f"{case}: gradient of scores")


def test_later_version_equals_its_authors(golden):
    """Every stored case: bags one by one; masked tiles are left out of the bag."""
    for path in sorted((golden / "chowder").glob("msintuit_*.npz")):
        case = load_case(path)
        head = rebuild(LAYOUTS, case.state_dict)
        assert head.arguments["order"] == "top-bottom"
        for i, features in enumerate(case.tensor("in/x")):
            features.requires_grad_()
            out = head(features)
            assert_near(out.logits, case["out/logits"][i], f"{case}: logits")
            assert_near(out.tile_scores, case["out/tile_scores"][i], f"{case}: scores")
            extremes = case["out/extreme_scores"][i, :, 0]
            assert_near(out.slide_descriptor, extremes, f"{case}: extremes")
            for key, value in (
                ("grad/logit_wrt_x", out.logits.sum()),
                ("grad/tile_score_self_wrt_x", out.tile_scores.sum()),
            ):
                (gradient,) = torch.autograd.grad(value, features, retain_graph=True)
                assert_near(gradient, case[key][i], f"{case}: {key}")
            kept = head(features[~case.tensor("in/mask")[i, :, 0]])
            assert_near(kept.logits, case["out/logits_masked"][i], f"{case}: masked logits")
            extremes = case["out/extreme_scores_masked"][i, :, 0]
            assert_near(kept.slide_descriptor, extremes, f"{case}: masked extremes")
    assert len(LAYOUTS) == 2


def test_extremes_that_overlap_equal_the_reference(golden):
    for path in sorted((golden / "chowder").glob("extreme_layer_edge*.npz")):
        case = load_case(path)
        found = extreme_scores(case.tensor("in/x")[0, :, 0], 2, "top-bottom")
        assert_near(found, case["out/values_k2"][0, :, 0], f"{case}")
    assert extreme_scores(torch.tensor([2.0, -1.0, 5.0]), 2, "top-bottom").tolist() == [5, 2, -1, 2]


def test_weldon_pooling_equals_the_authors(golden):
    checked = 0
    for case in cases(golden, "chowder", "weldon_*.npz"):
        maps = case.tensor("in/score_maps")
        for key in (key for key in case.arrays if key.startswith("out/pool_")):
            kmax, kmin = (float(part[4:]) for part in key.removeprefix("out/pool_").split("_"))
            assert_near(weldon_pool(maps.flatten(2), kmax, kmin), case[key], f"{case}: {key}")
            checked += 1
    assert checked >= 5


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 12), st.integers(0, 99))
def test_weldon_pooling_in_closed_form(n, kmax, kmin, seed):
    scores = bag(n, 3, seed).T
    found = weldon_pool(scores, kmax, kmin)
    for row, pooled in zip(scores.tolist(), found.tolist(), strict=True):
        top = sorted(row)[::-1][:kmax]
        wanted = sum(top) / len(top)
        if kmin:
            bottom = sorted(row)[:kmin]
            wanted = (wanted + sum(bottom) / len(bottom)) / 2
        assert pooled == pytest.approx(wanted)


def test_weldon_takes_fractions_of_the_bag():
    scores = torch.tensor([5.0, 1.0, 2.0, 4.0, 3.0, 0.0, 9.0, 8.0, 7.0, 6.0])
    assert weldon_pool(scores, 0.2) == (9 + 8) / 2
    assert weldon_pool(scores, 0.26, 0.1) == ((9 + 8 + 7) / 3 + 0) / 2
    assert weldon_pool(scores[:2], 0.1) == 5, "a bag of two still gives one score"
    assert weldon_pool(scores[:2], 1.0, 7) == (5 + 3) / 2
    with pytest.raises(BadArgumentError, match="kmax=0"):
        weldon_pool(scores, 0, 1)


def test_weldon_head_pools_class_scores():
    head, features = small(weldon=(2, 1)), bag()
    out = head(features)
    scores = features @ head.score.weight.T + head.score.bias
    torch.testing.assert_close(out.tile_scores, scores)
    ascending = scores.sort(dim=0).values
    torch.testing.assert_close(out.logits, (ascending[-2:].mean(0) + ascending[0]) / 2)
    assert {name.split(".")[0] for name in head.state_dict()} == {"score"}
    again = build_mil("chowder", **head.arguments).double()
    again.load_state_dict(head.state_dict())
    torch.testing.assert_close(again(features).logits, out.logits, rtol=0, atol=0)


@pytest.mark.parametrize(("hidden", "score_hidden"), [((), ()), ((6,), (5,)), ((6, 4), (5, 3))])
@pytest.mark.parametrize("order", EXTREME_ORDERS)
def test_equations_in_closed_form(hidden, score_hidden, order):
    head, features = small(hidden=hidden, score_hidden=score_hidden, order=order), bag()
    state = head.state_dict()

    def network(x, name, step):
        numbers = sorted({int(k.split(".")[1]) for k in state if k.startswith(f"{name}.")})
        assert numbers == [step * i for i in range(len(numbers))]
        for i in numbers:
            x = x @ state[f"{name}.{i}.weight"].T + state[f"{name}.{i}.bias"]
            x = x if i == numbers[-1] else 1 / (1 + torch.exp(-x))
        return x

    if score_hidden:
        scores = network(features, "score", 2)[:, 0]
    else:
        assert "score.bias" not in state
        scores = features @ state["score.weight"][0]
    low, high = np.sort(scores.numpy())[:2], np.sort(scores.numpy())[-2:]
    ends = [*low, *high] if order == "bottom-top" else [*high[::-1], *low]
    out = head(features)
    torch.testing.assert_close(out.tile_scores[:, 0], scores)
    assert out.slide_descriptor.tolist() == pytest.approx(ends)
    logits = network(torch.tensor(ends, dtype=torch.float64), "mlp", 3)
    torch.testing.assert_close(out.logits, logits)


def test_orders_of_extremes_in_closed_form():
    scores = torch.tensor([3.0, -1.0, 7.0, 0.0, 5.0])
    assert extreme_scores(scores, 2, "bottom-top").tolist() == [-1, 0, 5, 7]
    assert extreme_scores(scores, 2, "top-bottom").tolist() == [7, 5, -1, 0]
    assert extreme_scores(scores, 4, "bottom-top").tolist() == [-1, 0, 3, 5, 0, 3, 5, 7]


def test_bag_smaller_than_r_counts_as_repeated():
    scores = torch.tensor([2.0, 1.0])
    assert extreme_scores(scores, 3).tolist() == [1, 1, 2, 1, 2, 2]
    assert extreme_scores(scores[:1], 3).tolist() == [2] * 6


def test_every_order_is_accepted():
    for order in EXTREME_ORDERS:
        assert build_mil("chowder", 12, order=order, hidden=[]).mlp[0].in_features == 10


@pytest.mark.parametrize("weldon", [(0, 1), (1, -1), (1,), (1, 2, 3)])
def test_bad_weldon(weldon):
    with pytest.raises(BadArgumentError, match="weldon"):
        build_mil("chowder", 12, weldon=weldon)


@pytest.mark.parametrize(
    ("scores", "n_extreme", "order", "told"),
    [
        (torch.zeros(0), 2, "bottom-top", r"shape \(0,\)"),
        (torch.zeros(4, 1), 2, "bottom-top", r"shape \(4, 1\)"),
        (torch.zeros(4), 0, "bottom-top", "n_extreme=0"),
        (torch.zeros(4), 2, "up", "order='up'"),
    ],
)
def test_extremes_of_nothing_and_in_no_known_order(scores, n_extreme, order, told):
    with pytest.raises(BadArgumentError, match=told):
        extreme_scores(scores, n_extreme, order)


def test_weldon_pooling_of_no_scores():
    with pytest.raises(BadArgumentError, match=r"shape \(3, 0\)"):
        weldon_pool(torch.zeros(3, 0), 1, 1)

"""MS-DA-MIL against reference numbers and closed forms."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden_cases import Case, assert_near, cases
from napari_wsi_xai.errors import BadArgumentError, ModelError
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.models.checkpoints.layouts.msmil import LAYOUTS
from napari_wsi_xai.models.mil.msmil import adaptive_grad_reverse, domain_strength, fuse_bags

(LAYOUT,) = LAYOUTS


def small(classes=2, **arguments):
    torch.manual_seed(4)
    sizes = {"projection": (9, 7), "attention": 5} | arguments
    return build_mil("msmil", 12, classes, **sizes)


def bags(*counts, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 12, generator=draw) for n in counts]


def test_equals_the_authors(golden):
    for case in cases(golden, "msdamil", "msdamil_*.npz"):
        head = build_mil(LAYOUT.architecture, **LAYOUT.arguments(case.state_dict))
        head.load_state_dict(LAYOUT.rename(case.state_dict))
        given = [case.tensor(f"in/feat_{x}")[0].requires_grad_() for x in ("x10", "x20")]
        out = head(given)
        assert_near(out.logits, case["out/logits"][0], case.name)
        assert_near(out.tile_scores[:, 0], case["out/A_raw"][0], case.name)
        assert_near(out.attention[:, 0], case["out/A"][0], case.name)
        assert_near((out.attention / out.attention.max())[:, 0], case["out/A_over_max"][0])
        assert_near(out.slide_descriptor, case["out/Z"][0], case.name)
        assert_near(head.project(torch.cat(given)), case["out/H"], case.name)
        assert_near(head.probabilities(out.logits), case["out/softmax"][0], case.name)
        for c in range(len(out.logits)):
            gradients = torch.autograd.grad(out.logits[c], given, retain_graph=True)
            for x, gradient in zip(("x10", "x20"), gradients, strict=True):
                assert_near(gradient, case[f"grad/logits_wrt_{x}"][c], x)
        gradients = torch.autograd.grad(out.tile_scores.sum(), given)
        for x, gradient in zip(("x10", "x20"), gradients, strict=True):
            assert_near(gradient, case[f"grad/A_raw_self_wrt_{x}"], x)


def test_fused_bags_equal_the_authors(golden):
    for case in cases(golden, "msdamil", "slide_fusion*.npz"):
        fused = [fuse_bags(one) for one in case.tensor("in/bag_probs")]
        assert_near(torch.stack(fused), case["out/slide_prob"], case.name)
        assert [int(p.argmax()) for p in fused] == case["out/pred"].tolist()


BY_HAND = Case(
    "by hand",
    {
        "in/features": np.float32([[1, 2], [3, 4], [5, 6]]),
        "in/attention": np.float32([[0.2, 0.5, 0.3]]),
        "in/cotangent": np.float32([[1, 10], [1, 10], [-1, 0]]),
        "in/lam": np.float32([0.5]),
        "out/forward": np.float32([[1, 2], [3, 4], [5, 6]]),
        "grad/features": np.float32([[-0.15, -1.5], [0, 0], [0.1, 0]]),
    },
    {},
    {},
)


def test_reversed_gradients_equal_the_authors(golden):
    for case in [BY_HAND, *(c for c in cases(golden, "msdamil") if "in/lam" in c)]:
        features = case.tensor("in/features").requires_grad_()
        out = adaptive_grad_reverse(features, case.tensor("in/attention"), float(case["in/lam"][0]))
        assert_near(out, case["out/forward"], case.name)
        out.backward(case.tensor("in/cotangent"))
        assert_near(features.grad, case["grad/features"], case.name)
        assert features.grad is not None


@given(st.integers(1, 9), st.integers(1, 4), st.floats(0, 1), st.integers(0, 99))
def test_reversed_gradients_in_closed_form(n, length, strength, seed):
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(n, length, generator=draw, dtype=torch.float64).requires_grad_()
    cotangent = torch.randn(n, length, generator=draw, dtype=torch.float64)
    attention = torch.softmax(torch.randn(n, 1, generator=draw, dtype=torch.float64), 0)
    attention.requires_grad_()
    out = adaptive_grad_reverse(features, attention, strength)
    assert torch.equal(out, features)
    out.backward(cotangent)
    most = max(attention[:, 0].tolist())
    for j, weight in enumerate(attention[:, 0].tolist()):
        torch.testing.assert_close(features.grad[j], -strength * (most - weight) * cotangent[j])
    assert attention.grad is None


def test_strength_grows_from_none_to_all():
    assert domain_strength(0) == 0
    assert domain_strength(0.1) == pytest.approx(math.tanh(0.5))
    assert domain_strength(1) == pytest.approx(1, abs=1e-4)


def test_fused_bags_are_geometric_means():
    fused = fuse_bags(torch.tensor([[0.9, 0.1], [0.4, 0.6]]))
    torch.testing.assert_close(fused, torch.tensor([0.6, math.sqrt(0.06)]))
    assert fuse_bags(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))[1] == 0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 99))
def test_one_softmax_over_all_magnifications(counts, seed):
    """The equations written out in double precision."""
    head = small(3, num_magnifications=len(counts)).double()
    given = [bag.double() for bag in bags(*counts, seed=seed)]
    h = torch.cat(given)
    for layer in head.projection[::2]:
        h = torch.relu(h @ layer.weight.T + layer.bias)
    hidden = torch.tanh(h @ head.attention_V.weight.T + head.attention_V.bias)
    raw = hidden @ head.attention_w.weight[0] + head.attention_w.bias
    a = raw.exp() / raw.exp().sum()
    out = head(given)
    torch.testing.assert_close(out.tile_scores[:, 0], raw)
    torch.testing.assert_close(out.attention[:, 0], a)
    torch.testing.assert_close(out.slide_descriptor, (a[:, None] * h).sum(0))
    wanted = head.classifier.weight @ (a[:, None] * h).sum(0) + head.classifier.bias
    torch.testing.assert_close(out.logits, wanted)
    assert out.tile_scores.shape == (sum(counts), 1)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_order_does_not_matter_within_and_between_bags(first, second, seed):
    head, (coarse, fine) = small(), bags(first, second, seed=seed)
    order = torch.randperm(second, generator=torch.Generator().manual_seed(seed))
    one, other, swapped = head([coarse, fine]), head([coarse, fine[order]]), head([fine, coarse])
    torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.attention[first:][order], other.attention[first:])
    torch.testing.assert_close(one.logits, swapped.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.attention[first:], swapped.attention[:second])


def test_a_tensor_is_a_bag_put_together():
    head, both = small(), bags(4, 6)
    assert torch.equal(head(torch.cat(both)).logits, head(both).logits)
    assert (head.magnification_use, head.num_magnifications) == ("pool", 2)
    alone = small(num_magnifications=1)
    assert torch.equal(alone(both[:1]).logits, alone(both[0]).logits)
    assert (alone.magnification_use, alone.num_magnifications) == ("single", 1)


@pytest.mark.parametrize("single", [False, True])
def test_four_blocks_in_a_row_are_forward(single):
    head, both = small(single_logit=single), bags(4, 6)
    out, scores = head(both), head.score_tiles(both)
    torch.testing.assert_close(scores, out.tile_scores)
    descriptor, attention = head.aggregate(scores, both)
    torch.testing.assert_close(attention, out.attention)
    torch.testing.assert_close(head.decide(descriptor), out.logits)
    streamed = head.weigh(scores).T @ head.project(torch.cat(both))
    torch.testing.assert_close(streamed[0], out.slide_descriptor)
    assert out.logits.shape == (1 if single else 2,)
    assert float(head.probabilities(out.logits).detach().sum()) == pytest.approx(1)


def test_arguments_rebuild_the_head():
    head, three = small(3, num_magnifications=3), bags(2, 3, 5)
    again = build_mil("msmil", **json.loads(json.dumps(head.arguments)))
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(three).logits, head(three).logits)
    assert again.arguments == head.arguments


def test_float16_descriptors_give_nearly_the_same():
    head, both = small(), bags(8, 12)
    half = head([bag.half() for bag in both]).logits
    torch.testing.assert_close(half, head(both).logits, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:1], r"1 bag\(s\).*2"),
        (lambda b: [*b, b[0]], r"3 bag\(s\).*2"),
        (lambda b: [b[0][:0], b[1]], "magnification 1 of 2.*0 tiles"),
        (lambda b: [b[0], b[1][:0]], "magnification 2 of 2.*0 tiles"),
        (lambda b: [b[0], b[1][:, :5]], r"magnification 2 of 2.*\(6, 5\).*12"),
        (lambda b: [b[0] * torch.nan, b[1]], "magnification 1 of 2.*4 of 4"),
        (lambda b: b[0][:0], "a bag of 0 tiles"),
    ],
)
def test_bad_bags_name_magnification_and_numbers(change, message):
    head, both = small(), bags(4, 6)
    for call in (head, head.score_tiles):
        with pytest.raises(ModelError, match=message):
            call(change(both))


@pytest.mark.parametrize(
    ("name", "value"),
    [("projection", [4, 0]), ("projection", []), ("attention", 0), ("num_magnifications", 0)],
)
def test_bad_arguments_name_the_value(name, value):
    with pytest.raises(BadArgumentError, match=rf"{name}={value}".replace("[", r"\[")):
        small(**{name: value})


def test_bad_inputs_name_the_numbers():
    with pytest.raises(BadArgumentError, match=r"\(0, 2\)"):
        fuse_bags(torch.zeros(0, 2))
    with pytest.raises(BadArgumentError, match=r"\(2,\)"):
        fuse_bags(torch.zeros(2))
    with pytest.raises(BadArgumentError, match=r"3 weights.*4 descriptors"):
        adaptive_grad_reverse(torch.zeros(4, 2), torch.zeros(3), 0.5)


def test_full_checkpoints_are_known_by_name_and_shape(golden):
    """The published networks: extractors and the domain branch are no part of the head."""
    shapes = json.loads((golden / "msdamil" / "native_state_dict_keys.json").read_text())
    counts = {"MSDAMIL": 2, "DAMIL(domain_num=120)": 1}
    assert set(counts) <= set(shapes)
    for network, magnifications in counts.items():
        tensors = {k: torch.empty(s, device="meta") for k, s in shapes[network].items()}
        assert LAYOUT.arguments(tensors) == {
            "in_features": 25088,
            "num_classes": 2,
            "single_logit": False,
            "projection": [2048, 512],
            "attention": 128,
            "num_magnifications": magnifications,
        }
        used = {name for name in tensors if LAYOUT.template_of(name)}
        assert all(LAYOUT.ignores(name) for name in set(tensors) - used)
        with torch.device("meta"):
            head = build_mil("msmil", **LAYOUT.arguments(tensors))
        ours = {name: tuple(t.shape) for name, t in LAYOUT.rename(tensors).items()}
        assert ours == {name: tuple(t.shape) for name, t in head.state_dict().items()}


def test_without_extractors_the_branch_tells_the_magnifications():
    predictor = small(attention=3).state_dict()
    back = {ours: theirs for theirs, ours in LAYOUT.names.items()}
    state = {
        back.get(name, f"class_predictor.feature_extractor_2.{name[11:]}"): tensor
        for name, tensor in predictor.items()
    }
    assert LAYOUT.arguments(state)["num_magnifications"] == 2
    state["domain_predictor.domain_classifier.0.weight"] = torch.zeros(2, 12)
    assert LAYOUT.arguments(state)["num_magnifications"] == 1
    assert LAYOUT.ignores("domain_predictor.domain_classifier.0.weight")


def test_logits_are_not_fused_as_probabilities():
    with pytest.raises(BadArgumentError, match=r"from -1.5 to 0.5.*from 0 to 1"):
        fuse_bags(torch.tensor([[-1.5, 0.5], [0.25, 0.5]]))

"""xMIL's AttnMIL against reference numbers, a trained checkpoint and plain loops."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden_cases import assert_near, cases, load_case, rebuild
from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.models.checkpoints import import_checkpoint
from napari_wsi_xai.models.checkpoints.layouts.xmil_attnmil import LAYOUTS


def small(**arguments):
    torch.manual_seed(3)
    sizes = {"hidden": 7, "attention": 5}
    return build_mil("xmil-attnmil", 12, 3, **(sizes | arguments)).double()


def bag(n=9, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, 12, generator=draw, dtype=torch.float64)


def check_numbers(head, case):
    features = case.tensor("in/features").requires_grad_()
    out = head(features)
    assert_near(out.logits, case["out/logits"][0], f"{case}: logits")
    assert_near(out.tile_scores[:, 0], case["out/attention_raw"], f"{case}: scores")
    assert_near(out.attention[:, 0], case["out/attention_softmax"], f"{case}: attention")
    for c, logit in enumerate(out.logits):
        (gradient,) = torch.autograd.grad(logit, features, retain_graph=True)
        assert_near((gradient * features).sum(1), case[f"out/gi/class{c}"], f"{case}: gi {c}")
        assert_near(gradient.square().sum(1), case[f"out/grad2/class{c}"], f"{case}: grad2 {c}")
    with torch.no_grad():
        alone = torch.stack([head(tile[None]).logits for tile in features])
    for c in range(len(out.logits)):
        assert_near(alone[:, c], case[f"out/perturbation_keep/class{c}"], f"{case}: keep {c}")


def test_equals_the_authors(golden):
    for case in cases(golden, "xmil", "xmil_attnmil_*.npz"):
        check_numbers(rebuild(LAYOUTS, case.state_dict), case)


def test_trained_checkpoint_equals_the_authors(golden, shared_data):
    head = import_checkpoint(shared_data / "weights" / "xmil_camelyon_attnmil.pt")
    assert head.architecture == "xmil-attnmil"
    assert head.arguments["in_features"] == 768
    check_numbers(head, load_case(golden / "xmil" / "author_ckpt_attnmil_camelyon.npz"))


@torch.no_grad()
def twin(head, features):
    """Scores, attention and logits, tile by tile."""
    projected = []
    for x in features:
        for layer in head.layers:
            x = (layer.weight @ x + layer.bias).clamp(min=0)
        projected.append(x)
    v, w = head.attention_V, head.attention_w
    scores = [float(w.weight[0] @ torch.tanh(v.weight @ x + v.bias) + w.bias[0]) for x in projected]
    weights = [math.exp(score) for score in scores]
    attention = [weight / sum(weights) for weight in weights]
    pooled = sum(a * x for a, x in zip(attention, projected, strict=True))
    for layer in head.out_layers:
        pooled = (layer.weight @ pooled + layer.bias).clamp(min=0)
    logits = head.classifier.weight @ pooled + head.classifier.bias
    return torch.tensor(scores).double(), torch.tensor(attention).double(), logits


@pytest.mark.parametrize(("layers", "out_layers"), list(product([1, 3], [0, 2])))
def test_equations_tile_by_tile(layers, out_layers):
    head, features = small(layers=layers, out_layers=out_layers), bag()
    scores, attention, logits = twin(head, features)
    out = head(features)
    torch.testing.assert_close(out.tile_scores[:, 0], scores, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out.attention[:, 0], attention, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(out.logits, logits)
    descriptor, _ = head.aggregate(out.tile_scores, features)
    torch.testing.assert_close(descriptor, out.slide_descriptor)
    assert torch.autograd.gradcheck(lambda x: head(x).logits, bag(4).requires_grad_())


@given(st.integers(1, 15), st.integers(0, 99))
def test_order_of_tiles_does_not_matter(n, seed):
    head, features = small(layers=2, out_layers=1), bag(n, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    one, other = head(features), head(features[order])
    torch.testing.assert_close(one.logits, other.logits)
    torch.testing.assert_close(one.attention[order], other.attention)


def test_dropout_acts_in_training_only():
    head = small(dropout=0.5)
    evaluated = head(bag()).logits
    torch.testing.assert_close(head(bag()).logits, evaluated, rtol=0, atol=0)
    torch.manual_seed(0)
    assert (head.train()(bag()).logits - evaluated).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "value"), [("hidden", 0), ("attention", 0), ("layers", 0), ("out_layers", -1)]
)
def test_sizes_are_checked(name, value):
    with pytest.raises(BadArgumentError, match=f"{name}={value}"):
        build_mil("xmil-attnmil", 12, 2, **{name: value})

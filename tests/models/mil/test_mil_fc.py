"""MIL_fc against reference numbers, hand-set weights and its own promises."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden_cases import assert_near, load_case, rebuild
from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.models.checkpoints.layouts.mil_fc import LAYOUTS


def set_by_hand(classes=2, **arguments):
    """The projection keeps positive parts; each class's logit is one of them, halved for 0."""
    head = build_mil("mil-fc", classes, classes, hidden=classes, **arguments).double()
    with torch.no_grad():
        head.projection.weight.copy_(torch.eye(classes))
        head.projection.bias.zero_()
        head.classifier.weight.copy_(torch.eye(classes))
        head.classifier.weight[0] /= 2
        head.classifier.bias.zero_()
    return head


def small(classes=2, **arguments):
    torch.manual_seed(3)
    return build_mil("mil-fc", 12, classes, hidden=7, **arguments).double()


def bag(n=9, d=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=draw, dtype=torch.float64)


def test_equals_the_authors(golden):
    """Every stored case; the layouts and rules are tested below without them."""
    for path in sorted((golden / "clam").glob("mil_fc*.npz")):
        case = load_case(path)
        head, features = rebuild(LAYOUTS, case.state_dict), case.tensor("in/h").requires_grad_()
        out = head(features)
        assert_near(out.logits, case["out/top_instance_logits"][0], f"{case}: logits")
        assert_near(head.probabilities(out.logits), case["out/Y_prob"][0], f"{case}: Y_prob")
        assert_near(head.probabilities(out.tile_scores), case["out/y_probs"], f"{case}: tiles")
        assert_near(out.slide_descriptor, case["out/features"][0], f"{case}: features")
        gradients = [
            torch.autograd.grad(logit, features, retain_graph=True)[0] for logit in out.logits
        ]
        assert_near(torch.stack(gradients), case["grad/top_logits_wrt_h"], f"{case}: gradients")
    assert {layout.architecture for layout in LAYOUTS} == {"mil-fc"}


def test_the_most_positive_tile_decides():
    features = torch.tensor([[4.0, 1.0], [2.0, 3.0], [9.0, 4.0], [-5.0, 1.5]]).double()
    out = set_by_hand()(features)
    assert out.tile_scores.tolist() == [[2.0, 1.0], [1.0, 3.0], [4.5, 4.0], [0.0, 1.5]]
    assert out.logits.tolist() == [1.0, 3.0]
    assert out.slide_descriptor.tolist() == [2.0, 3.0]
    assert out.attention is None


def test_the_most_certain_tile_of_any_class_decides():
    """The third tile has the largest logit, the first the largest probability."""
    features = torch.tensor([[16.0, 1.0, 0.0], [2.0, 5.0, 1.0], [0.0, 9.0, 8.0]]).double()
    head = set_by_hand(3)
    assert head.arguments["rule"] == "any"
    assert head(features).logits.tolist() == [8.0, 1.0, 0.0]
    assert set_by_hand(2)(features[:2, :2]).logits.tolist() == [1.0, 5.0]
    assert set_by_hand(2, rule="any")(features[:2, :2]).logits.tolist() == [8.0, 1.0]


def test_certain_tiles_are_still_told_apart():
    """In float32 both tiles have probability 1; the more certain one decides, in any order."""
    features = torch.tensor([[0.0, 60.0], [0.0, 90.0]])
    for rule in ("positive", "any"):
        head = set_by_hand(rule=rule).float()
        assert head.probabilities(head.score_tiles(features))[:, 1].tolist() == [1.0, 1.0]
        assert head(features).logits[1] == head(features.flip(0)).logits[1] == 90


@given(st.integers(1, 15), st.integers(0, 99), st.integers(2, 4), st.booleans())
def test_top_tile_has_the_largest_probability(n, seed, classes, anyway):
    rule = "any" if anyway or classes > 2 else "positive"
    head, features = small(classes, rule=rule), bag(n, seed=seed)
    out = head(features)
    probabilities = torch.softmax(out.tile_scores, dim=1)
    best = probabilities.max(dim=1).values if rule == "any" else probabilities[:, 1]
    top = int(best.argmax())
    torch.testing.assert_close(out.logits, out.tile_scores[top], rtol=0, atol=0)
    torch.testing.assert_close(out.slide_descriptor, head.project(features)[top])
    descriptor, attention = head.aggregate(out.tile_scores, features)
    assert attention is None
    torch.testing.assert_close(head.decide(descriptor), out.logits)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(head(features[order]).logits, out.logits)


@pytest.mark.parametrize("rule", ["positive", "any"])
def test_single_logit_ranks_as_two_logits_do(rule):
    one, two = small(single_logit=True, rule=rule), small(rule=rule)
    with torch.no_grad():
        two.projection.load_state_dict(one.projection.state_dict())
        two.classifier.weight.copy_(torch.cat([torch.zeros(1, 7), one.classifier.weight]))
        two.classifier.bias.copy_(torch.cat([torch.zeros(1), one.classifier.bias]))
    for seed in range(20):
        features = bag(6, seed=seed) - 0.3
        torch.testing.assert_close(one(features).logits, two(features).logits[1:])


def test_only_the_top_tile_has_a_gradient():
    head, features = small(), bag().requires_grad_()
    out = head(features)
    (gradient,) = torch.autograd.grad(out.logits.sum(), features)
    top = int((out.tile_scores[:, 1] - out.tile_scores[:, 0]).argmax())
    assert gradient.abs().sum(dim=1).nonzero().flatten().tolist() == [top]
    assert torch.autograd.gradcheck(lambda x: head(x).logits, bag(4).requires_grad_())


def test_training_decides_by_the_projections_that_it_scored():
    head = small(dropout=0.5).train()
    for seed in range(5):
        torch.manual_seed(seed)
        out = head(bag())
        torch.testing.assert_close(head.decide(out.slide_descriptor), out.logits)


@pytest.mark.parametrize(
    ("classes", "arguments", "message"),
    [
        (2, {"rule": "best"}, "'best'.*positive, any"),
        (3, {"rule": "positive"}, "num_classes=3"),
        (2, {"hidden": 0}, "hidden=0"),
    ],
)
def test_bad_arguments(classes, arguments, message):
    with pytest.raises(BadArgumentError, match=message):
        build_mil("mil-fc", 12, classes, **arguments)

"""MIL-SIL in closed form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models import build_mil


def small(classes=3, **arguments):
    torch.manual_seed(3)
    return build_mil("mil-sil", 12, classes, **arguments).double()


def bag(n=9, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, 12, generator=draw, dtype=torch.float64)


def test_decides_by_the_mean_of_tile_logits():
    head, features = small(), bag()
    out = head(features)
    torch.testing.assert_close(
        out.tile_scores, features @ head.classifier.weight.T + head.classifier.bias
    )
    torch.testing.assert_close(out.logits, out.tile_scores.mean(0))
    assert out.attention is None
    mean = build_mil("mean", 12, 3).double()
    mean.load_state_dict(head.state_dict())
    torch.testing.assert_close(mean(features).logits, out.logits)


@given(st.integers(1, 12), st.integers(0, 2), st.floats(0, 3), st.integers(0, 99))
def test_losses_in_closed_form(n, label, weight, seed):
    head, features = small(), bag(n, seed)
    tiles = [head.classifier(x) for x in features]
    bag_loss = -torch.log_softmax(sum(tiles) / n, 0)[label]
    single = sum(-torch.log_softmax(z, 0)[label] for z in tiles) / n
    found = head.losses(features, label, weight)
    torch.testing.assert_close(found.bag, bag_loss)
    torch.testing.assert_close(found.single, single)
    torch.testing.assert_close(found.total, bag_loss + weight * single)
    assert found.single >= found.bag - 1e-12  # cross entropy is convex


@pytest.mark.parametrize("label", [0, 1])
def test_losses_of_a_single_logit(label):
    head, features = small(2, single_logit=True), bag()
    found = head.losses(features, label)
    p = torch.sigmoid(head.score_tiles(features)[:, 0])
    torch.testing.assert_close(found.single, -torch.log(p if label else 1 - p).mean())
    probability = head.probabilities(head(features).logits)[label]
    torch.testing.assert_close(found.bag, -torch.log(probability))


def test_both_branches_train_the_shared_classifier():
    head = small()
    features = bag().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: head.losses(x, 1, 0.7).total, features)
    gradients = []
    for weight in (0.0, 1.0):
        (gradient,) = torch.autograd.grad(
            head.losses(features, 1, weight).total, head.classifier.weight
        )
        gradients.append(gradient)
    assert (gradients[1] - gradients[0]).abs().max() > 1e-3


@pytest.mark.parametrize(("label", "weight", "message"), [(3, 1, "label=3"), (0, -1, "-1")])
def test_bad_arguments(label, weight, message):
    with pytest.raises(BadArgumentError, match=message):
        small().losses(bag(), label, weight)


def test_the_single_instance_weight_is_a_number_from_0():
    with pytest.raises(BadArgumentError, match="sil_weight=nan must be at least 0"):
        build_mil("mil-sil", 5).losses(torch.zeros(3, 5), 1, float("nan"))

"""What heads that need the whole bag at once keep to, beyond what every head does."""

import pytest
import torch

from napari_wsi_xai.models import build_mil

HEADS = {
    "dsmil": {"hidden": 5},
    "transmil": {"dim": 16, "heads": 4},
    "xmil-transmil": {"dim": 16, "heads": 4, "n_layers": 3, "attention": "dot_prod"},
    "dtfd": {"hidden": 6, "attention": 5},
}


def bag(n, d=12, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def head_of(architecture, classes=3, **arguments):
    torch.manual_seed(3)
    return build_mil(architecture, 12, classes, **HEADS[architecture], **arguments)


@pytest.fixture(params=sorted(HEADS))
def architecture(request):
    return request.param


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_four_blocks_in_a_row_are_forward(architecture, single, n):
    head, features = head_of(architecture, 2, single_logit=single), bag(n)
    scores = head.score_tiles(features)
    descriptor, attention = head.aggregate(scores, features)
    out = head(features)
    torch.testing.assert_close(out.tile_scores, scores)
    torch.testing.assert_close(out.slide_descriptor, descriptor)
    torch.testing.assert_close(head.decide(descriptor), out.logits)
    assert out.logits.shape == (1 if single else 2,)
    assert scores.shape[0] == n
    assert (attention is None) == (out.attention is None)
    if attention is not None:
        assert attention.shape == scores.shape
        torch.testing.assert_close(attention.sum(0), torch.ones(attention.shape[1]))
    assert head.probabilities(out.logits).shape == (2,)


def test_inference_and_training_modes_agree(architecture):
    """Memory is saved in different ways with and without gradients."""
    head, features = head_of(architecture), bag(20)
    with torch.inference_mode():
        alone = head(features)
    out = head(features.requires_grad_())
    torch.testing.assert_close(out.logits, alone.logits)
    torch.testing.assert_close(out.tile_scores, alone.tile_scores)
    (gradient,) = torch.autograd.grad(out.logits.sum(), features)
    assert torch.isfinite(gradient).all()
    assert float(gradient.abs().sum()) > 0


def test_features_given_are_left_as_they_are(architecture):
    features = bag(9)
    before = features.clone()
    head_of(architecture)(features)
    torch.testing.assert_close(features, before, rtol=0, atol=0)

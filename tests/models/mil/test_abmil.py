"""Attention-based MIL against reference numbers and closed forms."""

import pytest
import torch

from golden_cases import assert_near, cases, rebuild
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.models.checkpoints.layouts.abmil import LAYOUTS


def test_equals_the_authors(golden):
    """Every case that is there, plain and gated; the trunk before the pooling is left out."""
    for case in cases(golden, "abmil", "abmil_*.npz"):
        head, features = rebuild(LAYOUTS, case.state_dict), case.tensor("out/H").requires_grad_()
        gated = any(name.startswith("attention_U") for name in case.state_dict)
        assert head.architecture == ("abmil-gated" if gated else "abmil")
        assert head.single_logit
        out = head(features)
        assert_near(out.tile_scores.T, case["out/A_raw"], f"{case}: scores")
        assert_near(out.attention.T, case["out/A"], f"{case}: attention")
        assert_near(out.slide_descriptor, case["out/Z"][0], f"{case}: descriptor")
        assert_near(out.logits, case["out/logit"][0], f"{case}: logit")
        probabilities = head.probabilities(out.logits)
        assert_near(probabilities[1:], case["out/Y_prob"][0], f"{case}: probability")
        (gradient,) = torch.autograd.grad(out.logits.sum(), features, retain_graph=True)
        assert_near(gradient, case["grad/logit_wrt_H"], f"{case}: gradient")
        (gradient,) = torch.autograd.grad(out.tile_scores.sum(), features)
        assert_near(gradient, case["grad/A_raw_wrt_H"], f"{case}: gradient of scores")


@pytest.mark.parametrize("gated", [False, True])
def test_attention_in_closed_form(gated):
    """The equations written out for one bag, in double precision."""
    torch.manual_seed(2)
    head = build_mil("abmil-gated" if gated else "abmil", 12, hidden=5, single_logit=True).double()
    h = torch.randn(7, 12, generator=torch.Generator().manual_seed(0)).double()
    inner = torch.tanh(h @ head.attention_V.weight.T + head.attention_V.bias)
    if gated:
        inner = inner / (1 + torch.exp(-(h @ head.attention_U.weight.T + head.attention_U.bias)))
    raw = inner @ head.attention_w.weight[0] + head.attention_w.bias
    a = raw.exp() / raw.exp().sum()
    logit = head.classifier.weight[0] @ (a[:, None] * h).sum(0) + head.classifier.bias
    out = head(h)
    torch.testing.assert_close(out.tile_scores[:, 0], raw)
    torch.testing.assert_close(out.attention[:, 0], a)
    torch.testing.assert_close(out.logits, logit)

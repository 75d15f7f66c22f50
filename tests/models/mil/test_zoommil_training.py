"""Training of ZoomMIL against reference numbers and a plain double-precision twin."""

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from golden_cases import assert_near, cases
from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.mil.perturbed_topk import mix_children, perturbed_topk
from zoom_bags import LAYOUT, bags_of, check_levels, head_of, nested, small


def test_training_equals_the_authors(golden):
    trained = [c for c in cases(golden, "zoommil", "zoommil_*.npz") if "in/noise1" in c]
    for case in trained:
        check_training(case)
    assert all(c.state_dict for c in trained)


def check_training(case):
    head, bags = head_of(case).train(), bags_of(case)
    noise = [case.tensor("in/noise1"), case.tensor("in/noise2")]
    out = head(bags, noise=noise)
    check_levels(case, out.levels)
    assert_near(out.logits, case["out/logits"][0], case.name)
    assert_near(out.slide_descriptor, case["out/M"][0])
    k, sigma = head.k_sample, head.k_sigma
    first = perturbed_topk(out.levels[0].selection[:, 0], k, noise[0][0], sigma)
    second = perturbed_topk(out.levels[1].selection[:, 0], k, noise[1][0], sigma)
    assert_near(mix_children(first, bags[1]), case["out/x2_selected"][0])
    mixed = mix_children(second, mix_children(first, bags[2]))
    assert_near(mixed, case["out/x3_selected"][0])
    loss = cross_entropy(out.logits[None], case.tensor("in/label"))
    assert_near(loss.reshape(1), case["out/loss"])
    loss.backward()
    for n, bag in enumerate(bags, 1):
        assert_near(bag.grad, case[f"grad/loss_wrt_x{n}"][0], f"x{n}")
    by_author = {name: case.tensor(f"grad/loss_wrt_param/{name}") for name in case.state_dict}
    for name, parameter in head.named_parameters():
        assert_near(parameter.grad, LAYOUT.rename(by_author)[name], name)


def twin_logits(head, bags, noise):
    """The equations written out; soft choice with the surrogate whose gradient is the paper's."""
    total = 0
    for level in range(len(bags)):
        h = torch.relu(head.projections[level][0](bags[level]))
        total = total + torch.softmax(gated(head.attentions[level], h), 0) @ h
        if level + 1 == len(bags):
            return head.classifier(total)
        weights = torch.softmax(gated(head.selections[level], h), 0)
        z, k = noise[level], min(head.k_sample, len(h))
        chosen = (weights.detach() + head.k_sigma * z).topk(k).indices.sort(-1).values
        hot = one_hot(chosen, len(h)).to(z)
        slope = (hot * z[:, None]).mean(0) / head.k_sigma
        soft = hot.mean(0) + slope * (weights - weights.detach())
        bags = [
            torch.kron(soft, torch.eye(len(bag) // len(h)).to(bag)) @ bag if n > level else bag
            for n, bag in enumerate(bags)
        ]
    return None


def gated(net, h):
    tanh = torch.tanh(h @ net.V.weight.T + net.V.bias)
    gate = torch.sigmoid(h @ net.U.weight.T + net.U.bias)
    return (tanh * gate) @ net.w.weight[0] + net.w.bias


@pytest.mark.parametrize(("coarse", "factors"), [(5, (4,)), (5, (4, 2)), (2, (3, 2, 2))])
def test_training_equals_a_plain_twin(coarse, factors):
    head = small(3, len(factors) + 1, 3, k_sigma=0.05).double().train()
    bags = [bag.double().requires_grad_() for bag in nested(coarse, factors)]
    counts, noise = coarse, []
    for factor in factors:
        noise.append(torch.randn(20, counts, dtype=torch.float64))
        counts = min(3, counts) * factor
    out = head(bags, noise=noise)
    wanted = twin_logits(head, bags, noise)
    torch.testing.assert_close(out.logits, wanted)
    leaves = [*bags, *head.parameters()]
    label = torch.tensor([2])
    got = torch.autograd.grad(cross_entropy(out.logits[None], label), leaves)
    for one, other in zip(
        got, torch.autograd.grad(cross_entropy(wanted[None], label), leaves), strict=True
    ):
        torch.testing.assert_close(one, other)
    assert all(float(g.abs().sum()) > 0 for g in got[: len(bags)])
    torch.testing.assert_close(out.attention.sum(0), torch.ones(len(bags), dtype=torch.float64))


def test_drawn_noise_trains_the_choice():
    head = small().train()
    head(nested()).logits.sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in head.selections[0].w.parameters())


def test_noise_of_the_wrong_shape_names_it():
    head, bags = small().train(), nested()
    with pytest.raises(BadArgumentError, match=r"1 magnifications.*2"):
        head(bags, noise=[torch.zeros(4, 7)])
    with pytest.raises(BadArgumentError, match=r"\(4, 9\).*\(12,\)"):
        head(bags, noise=[torch.zeros(4, 7), torch.zeros(4, 9)])

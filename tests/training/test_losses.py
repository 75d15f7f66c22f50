"""Every loss against its formula, written out from the head's own outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, cross_entropy

from napari_wsi_xai.errors import BadArgumentError, ModelError
from napari_wsi_xai.models import MIL_ARCHITECTURES, build_mil
from napari_wsi_xai.training.domain import DomainBranch, DomainTerm
from napari_wsi_xai.training.losses import LOSSES, bag_loss, loss_options, training_loss

D, N = 12, 24
SMALL: dict[str, dict[str, Any]] = {
    "clam-sb": {"hidden": 8, "attention": 6, "k_sample": 3, "dropout": 0.0},
    "clam-mb": {"hidden": 8, "attention": 6, "k_sample": 3, "dropout": 0.0},
    "mil-fc": {"hidden": 8},
    "chowder": {"hidden": [6, 5]},
    "dsmil": {"hidden": 6, "passing_v": True},
    "transmil": {"dim": 16, "heads": 2},
    "xmil-transmil": {"dim": 16, "heads": 2},
    "xmil-attnmil": {"hidden": 8, "attention": 6, "out_layers": 1},
    "dtfd": {"hidden": 8, "attention": 6},
    "msmil": {"projection": [10, 8], "attention": 6},
    "zoommil": {"hidden": 6, "out_features": 8, "k_sample": 2, "k_sigma": 0.5},
    "sparseconvmil": {"channels": [6, 6], "hidden": [5], "downsample": 1.0},
}


@dataclass
class Bag:
    features: Tensor | tuple[Tensor, ...]
    coords_level0: Tensor | None


def head_of(name: str, classes: int = 2, **more: Any) -> Any:
    torch.manual_seed(3)
    return build_mil(name, D, classes, **SMALL.get(name, {}), **more)


def bag_for(name: str, seed: int = 0) -> Bag:
    random = torch.Generator().manual_seed(seed)
    if name in ("zoommil", "msmil"):
        sizes = (4, 8, 16) if name == "zoommil" else (6, 9)
        return Bag(tuple(torch.randn(n, D, generator=random) for n in sizes), None)
    coords = torch.stack([torch.arange(N) // 5, torch.arange(N) % 5], dim=1)
    return Bag(torch.randn(N, D, generator=random), coords)


def forward(head: Any, bag: Bag) -> Any:
    return head(
        bag.features if isinstance(bag.features, Tensor) else list(bag.features), bag.coords_level0
    )


def nll(logits: Tensor, label: int) -> float:
    """Cross entropy by hand."""
    values = logits.detach().double()
    return float(values.exp().sum().log() - values[label])


def test_every_architecture_has_a_loss() -> None:
    assert set(LOSSES) == set(MIL_ARCHITECTURES)


ALONE = ("decision", "abmil", "msmil", "chowder")
PLAIN = sorted(name for name, loss in LOSSES.items() if loss.__name__ in ALONE)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", PLAIN)
def test_decision_alone_costs_cross_entropy(name: str, classes: int) -> None:
    head, bag = head_of(name, classes), bag_for(name)
    for label in range(classes):
        parts = training_loss(head, bag, label)
        assert float(parts["loss"]) == pytest.approx(nll(forward(head, bag).logits, label))
        assert float(parts["bag"]) == float(parts["loss"])


SINGLE = [name for name in PLAIN if name not in ("abmil", "abmil-gated")]


@pytest.mark.parametrize("name", SINGLE)
def test_single_logit_costs_bernoulli_likelihood(name: str) -> None:
    head, bag = head_of(name, single_logit=True), bag_for(name)
    p = float(torch.sigmoid(forward(head, bag).logits.detach().double()))
    for label, chance in ((0, 1 - p), (1, p)):
        loss = float(training_loss(head, bag, label)["loss"])
        assert loss == pytest.approx(-math.log(chance), rel=1e-5)


@pytest.mark.parametrize("name", ["abmil", "abmil-gated"])
def test_abmil_keeps_probabilities_off_zero_and_one(name: str) -> None:
    head, bag = head_of(name, single_logit=True), bag_for(name)
    p = float(torch.sigmoid(forward(head, bag).logits.detach().double()))
    assert float(training_loss(head, bag, 1)["loss"]) == pytest.approx(-math.log(p), rel=1e-5)
    assert float(training_loss(head, bag, 0)["loss"]) == pytest.approx(-math.log(1 - p), rel=1e-5)
    far = torch.tensor([40.0])
    assert float(bag_loss(head, far, 0)) == pytest.approx(-math.log(1e-5), rel=1e-2)
    assert float(bag_loss(head, far, 1)) == pytest.approx(-math.log(1 - 1e-5), abs=1e-6)


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("name", ["abmil", "abmil-gated"])
def test_abmil_can_also_ask_for_the_sign_of_attention_logits(name: str, label: int) -> None:
    head, bag = head_of(name, 3), bag_for(name)
    out = forward(head, bag)
    scores = out.tile_scores[:, 0].detach().double()
    for sharpness in (0.5, 4.0):
        pooled = float((sharpness * scores).exp().mean().log() / sharpness)
        p = 1 / (1 + math.exp(-pooled))
        tiles = -math.log(p if label else 1 - p)
        parts = training_loss(head, bag, label, pooled_weight=0.25, sharpness=sharpness)
        assert float(parts["pooled"]) == pytest.approx(tiles, rel=1e-5)
        total = nll(out.logits, label) + 0.25 * tiles
        assert float(parts["loss"]) == pytest.approx(total, rel=1e-5)
    with pytest.raises(BadArgumentError, match=r"sharpness=0\.0"):
        training_loss(head, bag, label, pooled_weight=0.25, sharpness=0.0)


@pytest.mark.parametrize("subtyping", [False, True])
@pytest.mark.parametrize("name", ["clam-sb", "clam-mb"])
def test_clam_weighs_decision_and_instances(name: str, subtyping: bool) -> None:
    head, bag = head_of(name, 3, subtyping=subtyping), bag_for(name)
    assert isinstance(bag.features, Tensor)
    out = head(bag.features)
    instances = head.classify_instances(bag.features)
    for label in range(3):
        column = min(label, out.attention.shape[1] - 1)
        order = out.attention[:, column].argsort(descending=True)
        top, bottom = order[:3], order[-3:]
        logits = torch.cat([instances[label][top], instances[label][bottom]])
        targets = torch.tensor([1, 1, 1, 0, 0, 0])
        expected = float(cross_entropy(logits, targets).detach())
        for other in set(range(3)) - {label} if subtyping else ():
            column = min(other, out.attention.shape[1] - 1)
            top = out.attention[:, column].topk(3).indices
            zeros = torch.zeros(3, dtype=torch.int64)
            expected += float(cross_entropy(instances[other][top], zeros).detach())
        expected /= 3 if subtyping else 1
        parts = training_loss(head, bag, label)
        assert float(parts["instance"]) == pytest.approx(expected, rel=1e-5)
        assert float(parts["bag"]) == pytest.approx(nll(out.logits, label), rel=1e-5)
        total = 0.7 * float(parts["bag"]) + 0.3 * float(parts["instance"])
        assert float(parts["loss"]) == pytest.approx(total, rel=1e-5)
    changed = training_loss(head, bag, 0, bag_weight=0.2, instance_weight=0.0)
    assert float(changed["loss"]) == pytest.approx(0.2 * nll(out.logits, 0), rel=1e-5)


def test_clam_judges_instances_under_the_dropout_of_the_decision() -> None:
    head = build_mil("clam-sb", D, 2, hidden=8, attention=6, k_sample=3, dropout=0.5).train()
    bag = bag_for("clam-sb")
    torch.manual_seed(1)
    loss = training_loss(head, bag, 1)
    torch.manual_seed(1)
    decision = head(bag.features)
    torch.manual_seed(1)
    instances = head.instance_evaluation(bag.features, 1)  # type: ignore[operator]
    assert float(loss["bag"]) == pytest.approx(nll(decision.logits, 1), rel=1e-5)
    assert float(loss["instance"]) == pytest.approx(float(instances.loss), rel=1e-6)


def test_clam_says_that_a_bag_is_too_small() -> None:
    with pytest.raises(ModelError, match=r"k_sample=3 .* bag of 2 tiles"):
        training_loss(head_of("clam-sb"), Bag(torch.randn(2, D), None), 0)


@pytest.mark.parametrize("classes", [2, 3])
def test_dsmil_averages_decision_and_best_tile(classes: int) -> None:
    head, bag = head_of("dsmil", classes), bag_for("dsmil")
    out, best = head(bag.features), head.classify_tiles(bag.features).max(dim=0).values
    for label in range(classes):
        target = torch.eye(classes)[label]
        slide = binary_cross_entropy(torch.sigmoid(out.logits), target)
        instance = binary_cross_entropy(torch.sigmoid(best), target)
        parts = training_loss(head, bag, label)
        assert float(parts["loss"]) == pytest.approx(float(0.5 * slide + 0.5 * instance), rel=1e-5)


@pytest.mark.parametrize("label", [0, 1])
def test_dsmil_with_a_single_logit(label: int) -> None:
    head, bag = head_of("dsmil", single_logit=True), bag_for("dsmil")
    logits = (head(bag.features).logits, head.classify_tiles(bag.features).max(dim=0).values)
    terms = [binary_cross_entropy(torch.sigmoid(z), torch.full((1,), float(label))) for z in logits]
    loss = training_loss(head, bag, label)["loss"]
    assert float(loss) == pytest.approx(float(sum(terms)) / 2, rel=1e-5)


@pytest.mark.parametrize("single", [False, True])
def test_mil_sil_adds_the_mean_over_tiles(single: bool) -> None:
    head, bag = head_of("mil-sil", single_logit=single), bag_for("mil-sil")
    tiles = head(bag.features).tile_scores.detach()
    two = torch.cat([torch.zeros(N, 1), tiles], dim=1) if single else tiles
    slide, mean = nll(two.mean(dim=0), 1), sum(nll(row, 1) for row in two) / N
    assert float(training_loss(head, bag, 1)["loss"]) == pytest.approx(slide + mean, rel=1e-5)
    weighed = training_loss(head, bag, 1, sil_weight=0.25)
    assert float(weighed["loss"]) == pytest.approx(slide + 0.25 * mean, rel=1e-5)
    alone = training_loss(head, bag, 1, bag_weight=0.0, sil_weight=0.5)
    assert float(alone["loss"]) == pytest.approx(0.5 * mean, rel=1e-5)
    assert float(alone["bag"]) == pytest.approx(slide, rel=1e-5)


@pytest.mark.parametrize("distillation", ["afs", "maxs", "maxmins"])
def test_dtfd_adds_both_tiers_over_the_same_pseudo_bags(distillation: str) -> None:
    head, bag = head_of("dtfd", distillation=distillation).train(), bag_for("dtfd")
    torch.manual_seed(5)
    parts = training_loss(head, bag, 1)
    torch.manual_seed(5)
    first = head.pseudo_bag_logits(bag.features)
    torch.manual_seed(5)
    second = head(bag.features).logits
    tier1 = sum(nll(logits, 1) for logits in first) / len(first)
    assert float(parts["pseudo"]) == pytest.approx(tier1, rel=1e-5)
    assert float(parts["bag"]) == pytest.approx(nll(second, 1), rel=1e-5)
    assert float(parts["loss"]) == pytest.approx(tier1 + nll(second, 1), rel=1e-5)


def test_chowder_penalises_what_scores_tiles() -> None:
    head, bag = head_of("chowder"), bag_for("chowder")
    plain = float(training_loss(head, bag, 0)["loss"])
    penalised = float(training_loss(head, bag, 0, score_l2=0.5)["loss"])
    assert penalised - plain == pytest.approx(0.5 * float(head.score.weight.square().sum()))
    deep = head_of("chowder", score_hidden=(4,))
    squares = [layer.weight.square().sum() for layer in (deep.score[0], deep.score[2])]
    told = training_loss(deep, bag, 0, score_l2=0.5)
    assert float(told["score_l2"]) == pytest.approx(float(sum(squares)), rel=1e-6)  # no biases


def test_msmil_trains_slides_together_against_what_tells_them_apart() -> None:
    head, bag = head_of("msmil"), bag_for("msmil")
    torch.manual_seed(0)
    branch = DomainBranch(8, slides=5, hidden=7)
    term = DomainTerm(branch, slide=3, strength=0.4)
    parts = training_loss(head, bag, 1, domain=term, domain_weight=1.0)
    projected = head.project(torch.cat(bag.features))
    told = cross_entropy(branch(projected), torch.full((15,), 3))
    assert float(parts["domain"]) == pytest.approx(float(told), rel=1e-5)
    assert float(parts["loss"]) == pytest.approx(float(parts["bag"] + told), rel=1e-5)
    weight = head.projection[0].weight
    (reversed_,) = torch.autograd.grad(parts["domain"], weight)
    out = head(list(bag.features))
    (of_tiles,) = torch.autograd.grad(told, projected)
    factor = -0.4 * (out.attention.max() - out.attention)
    again = head.project(torch.cat(bag.features))
    (expected,) = torch.autograd.grad(again, weight, grad_outputs=factor * of_tiles)
    torch.testing.assert_close(reversed_, expected)


@pytest.mark.parametrize("name", sorted(MIL_ARCHITECTURES))
@pytest.mark.parametrize("single", [False, True])
def test_gradient_reaches_everything_that_is_trained(name: str, single: bool) -> None:
    head = head_of(name, single_logit=single).train()
    torch.manual_seed(0)
    for label in (0, 1):
        for seed in range(4):
            training_loss(head, bag_for(name, seed), label)["loss"].backward()
    without = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    # A constant added to every attention logit changes no softmax.
    shifts = {n for n in without if n.endswith("bias") and ("attention" in n or "selection" in n)}
    assert set(without) == shifts
    assert all(dict(head.named_parameters())[n].numel() <= 2 for n in shifts)


@pytest.mark.parametrize("name", sorted(MIL_ARCHITECTURES))
def test_class_weight_multiplies_the_loss_of_a_bag(name: str) -> None:
    head, bag = head_of(name, 3), bag_for(name)
    weights = torch.tensor([0.5, 3.0, 1.0])
    for label in range(3):
        plain = training_loss(head, bag, label)["loss"]
        weighed = training_loss(head, bag, label, weights)["loss"]
        assert float(weighed) == pytest.approx(float(plain) * float(weights[label]), rel=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    head, bag = head_of("clam-sb"), bag_for("clam-sb")
    with pytest.raises(BadArgumentError, match="label=2 must be from 0 to 1"):
        training_loss(head, bag, 2)
    with pytest.raises(BadArgumentError, match=r"no option 'sil_weight'; it takes bag_weight"):
        training_loss(head, bag, 0, sil_weight=1.0)
    with pytest.raises(BadArgumentError, match="bag_weight=-1"):
        training_loss(head, bag, 0, bag_weight=-1.0)
    with pytest.raises(BadArgumentError, match="bag_weight=nan"):
        training_loss(head, bag, 0, bag_weight=math.nan)
    with pytest.raises(BadArgumentError, match="domain is for msmil"):
        training_loss(head, bag, 0, domain=DomainTerm(DomainBranch(2, 2), 0, 0.1))
    assert loss_options("clam-mb") == {"bag_weight": 0.7, "instance_weight": 0.3}

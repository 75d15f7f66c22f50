"""Steps of the optimisers, learning rates and first weights, against closed forms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from napari_wsi_xai.models import MIL_ARCHITECTURES
from napari_wsi_xai.training import bags, fit
from napari_wsi_xai.training.bags import read_bag
from napari_wsi_xai.training.cohort import Cohort
from napari_wsi_xai.training.facts import FeatureFacts
from napari_wsi_xai.training.fit import train
from napari_wsi_xai.training.heads import build_head
from napari_wsi_xai.training.losses import training_loss
from napari_wsi_xai.training.recipes import Recipe, recipe_for
from napari_wsi_xai.training.schedules import learning_rate
from napari_wsi_xai.training.splits import Split
from planted import D, planted_cohort
from test_learning import nested_bag

PLAIN = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "monitor": "train_loss"}
ALL = tuple(range(6))


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return planted_cohort(tmp_path, (3, 3))


def gradient(head: torch.nn.Module, cohort: Cohort) -> dict[str, torch.Tensor]:
    """Mean gradient of the loss over all bags."""
    head.zero_grad()
    for case in cohort.cases:
        (training_loss(head, read_bag(case), case.label)["loss"] / 6).backward()  # type: ignore[arg-type]
    return {n: p.grad.clone() for n, p in head.named_parameters() if p.grad is not None}


def trained(cohort: Cohort, recipe: Recipe, out: Path) -> dict[str, torch.Tensor]:
    train(cohort, Split("all", ALL, (), ()), recipe, out)
    state = torch.load(out / "last.ckpt", weights_only=True)["state_dict"]
    return {n.removeprefix("head."): t for n, t in state.items() if n.startswith("head.")}


def test_accumulated_bags_make_one_step_along_their_mean_gradient(
    cohort: Cohort, tmp_path: Path
) -> None:
    recipe = recipe_for("mean", lr=0.1, accumulate=6, epochs=1, **PLAIN)
    head = build_head(recipe, D, 2)
    before = {n: p.detach().clone() for n, p in head.named_parameters()}
    slopes = gradient(head, cohort)
    after = trained(cohort, recipe, tmp_path / "out")
    for name, start in before.items():
        torch.testing.assert_close(after[name], start - 0.1 * slopes[name])


def test_clipping_shortens_the_step(cohort: Cohort, tmp_path: Path) -> None:
    recipe = recipe_for("mean", lr=1.0, accumulate=6, epochs=1, clip=1e-2, **PLAIN)
    before = dict(build_head(recipe, D, 2).named_parameters())
    after = trained(cohort, recipe, tmp_path / "out")
    moved = torch.stack([(after[n] - p.detach()).square().sum() for n, p in before.items()])
    assert float(moved.sum().sqrt()) == pytest.approx(1e-2, rel=1e-3)


def test_lookahead_goes_half_the_way(cohort: Cohort, tmp_path: Path) -> None:
    settings = {"lr": 0.1, "accumulate": 6, "epochs": 2, **PLAIN}
    recipe = recipe_for("mean", lookahead=2, **settings)
    head = build_head(recipe, D, 2)
    slow = {n: p.detach().clone() for n, p in head.named_parameters()}
    fast = trained(cohort, recipe_for("mean", **settings), tmp_path / "fast")
    after = trained(cohort, recipe, tmp_path / "out")
    for name, start in slow.items():
        torch.testing.assert_close(after[name], (start + fast[name]) / 2)


def test_learning_rates_are_used_and_logged(cohort: Cohort, tmp_path: Path) -> None:
    recipe = recipe_for("dtfd", epochs=4, lr=0.1, milestones="1,3", lr_factor=0.5, hidden=8)
    result = train(cohort, Split("all", ALL, (), ()), recipe, tmp_path / "out")
    rates = [row["lr"] for row in result.history]
    assert rates == pytest.approx([0.1, 0.05, 0.05, 0.025])
    assert rates == [learning_rate(recipe, epoch, []) for epoch in range(4)]


def test_dsmil_begins_orthogonal() -> None:
    head = build_head(recipe_for("dsmil", hidden=8), D, 3)
    for module in head.modules():
        if isinstance(module, torch.nn.Linear):
            rows = min(module.weight.shape)
            product = module.weight @ module.weight.T
            if module.weight.shape[0] > module.weight.shape[1]:
                product = module.weight.T @ module.weight
            torch.testing.assert_close(product, torch.eye(rows), atol=1e-5, rtol=0)
            assert not module.bias.any()


@pytest.mark.parametrize("name", sorted(MIL_ARCHITECTURES))
def test_seed_decides_the_first_weights(name: str) -> None:
    def first(seed: int) -> dict[str, torch.Tensor]:
        return build_head(recipe_for(name, seed=seed), 16, 2, 2).state_dict()

    same, other = first(4), first(5)
    assert all(torch.equal(tensor, same[n]) for n, tensor in first(4).items())
    assert any(not torch.equal(tensor, other[n]) for n, tensor in same.items())


def test_what_tells_slides_apart_is_trained_and_left_out(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bags, "read_bag", nested_bag)
    monkeypatch.setattr(fit, "feature_facts", lambda cohort: FeatureFacts(D, mpps=(4.0, 2.0)))
    settings = {"projection": "8,8", "attention": 4, "epochs": 10, "lr": 1e-3, "accumulate": 6}
    split = Split("all", ALL, (), ())
    plain = train(cohort, split, recipe_for("msmil", **settings), tmp_path / "plain")
    recipe = recipe_for("msmil", **settings, domain_weight=1.0)
    result = train(cohort, split, recipe, tmp_path / "out")
    assert result.history[-1]["train_domain"] < result.history[0]["train_domain"]
    assert "train_domain" not in plain.history[0]
    assert set(result.head.state_dict()) == set(plain.head.state_dict())
    ours, theirs = result.head.state_dict(), plain.head.state_dict()
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)

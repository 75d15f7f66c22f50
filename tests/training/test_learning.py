"""Every head finds a planted direction in random descriptors, on bags it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_wsi_xai.models import MIL_ARCHITECTURES
from napari_wsi_xai.training import bags, fit
from napari_wsi_xai.training.bag import Bag
from napari_wsi_xai.training.cohort import Case
from napari_wsi_xai.training.facts import FeatureFacts
from napari_wsi_xai.training.fit import train
from napari_wsi_xai.training.recipes import recipe_for
from napari_wsi_xai.training.splits import hold_out
from planted import D, planted_cohort, tiles

SHORT: dict[str, dict[str, Any]] = {
    "mean": {"lr": 3e-2},
    "max": {"lr": 3e-2},
    "mil-sil": {"lr": 3e-2},
    "abmil": {"hidden": 16, "lr": 1e-2},
    "abmil-gated": {"hidden": 16, "lr": 1e-2},
    "chowder": {"hidden": "16,8", "dropout": 0.0, "lr": 3e-2, "accumulate": 1, "n_extreme": 3},
    "clam-sb": {"hidden": 16, "attention": 8, "k_sample": 3, "lr": 3e-3},
    "clam-mb": {"hidden": 16, "attention": 8, "k_sample": 3, "lr": 3e-3},
    "mil-fc": {"hidden": 16, "lr": 1e-2, "epochs": 16},
    "dsmil": {"hidden": 16, "lr": 3e-2, "epochs": 12},
    "dtfd": {"hidden": 16, "attention": 8, "lr": 3e-3},
    "transmil": {"dim": 16, "heads": 2, "lr": 1e-2},
    "xmil-transmil": {
        "dim": 16,
        "heads": 2,
        "optimizer": "adam",
        "lr": 3e-3,
        "accumulate": 1,
        "dropout": 0.0,
        "class_dropout": 0.0,
    },
    "xmil-attnmil": {"hidden": 16, "attention": 8, "lr": 3e-2, "accumulate": 2},
    "msmil": {"projection": "16,16", "attention": 8, "lr": 3e-2},
    "zoommil": {
        "hidden": 8,
        "out_features": 16,
        "k_sample": 3,
        "lr": 1e-2,
        "dropout": 0.0,
        "epochs": 10,
        "lr_patience": 99,
    },
    "sparseconvmil": {
        "channels": "16,16",
        "hidden": "16",
        "downsample": 100.0,
        "lr": 1e-2,
        "accumulate": 1,
    },
}


def nested_bag(case: Case, use: str) -> Bag:
    """Coarse tiles with 4 fine ones each; what is planted is seen in both, as in tissue."""
    rng = np.random.default_rng([case.label, *case.slide.encode()])
    coarse = tiles(rng, 8, case.label, 0.4, 4.5)
    fine = np.repeat(coarse, 4, axis=0) + 0.5 * rng.standard_normal((32, D))
    both = (torch.from_numpy(coarse), torch.from_numpy(fine.astype(np.float32)))
    return Bag(both, None, case.label, case.slide)


@pytest.mark.parametrize("name", sorted(MIL_ARCHITECTURES))
def test_every_head_learns(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(SHORT) == set(MIL_ARCHITECTURES)
    cohort = planted_cohort(tmp_path, (32, 32), share=0.35, reach=4.5)
    if name in ("zoommil", "msmil"):
        monkeypatch.setattr(bags, "read_bag", nested_bag)
        monkeypatch.setattr(fit, "feature_facts", lambda cohort: FeatureFacts(D, mpps=(4.0, 2.0)))
    settings = {"epochs": 8, "patience": None, "monitor": "val_loss", **SHORT[name]}
    split = hold_out(cohort, test=0.4, val=0.2)
    result = train(cohort, split, recipe_for(name, **settings), tmp_path / "out")
    assert result.metrics["test"].slides == 26
    assert result.metrics["test"].auc.value is not None
    assert result.metrics["test"].auc.value > 0.95
    losses = [row["train_loss"] for row in result.history]
    assert losses[-1] < losses[0]


def test_nothing_is_learnt_where_nothing_is_planted(tmp_path: Path) -> None:
    cohort = planted_cohort(tmp_path, (32, 32), reach=0.0)
    recipe = recipe_for("abmil", **SHORT["abmil"], epochs=8)
    result = train(cohort, hold_out(cohort, test=0.4, val=0.2), recipe, tmp_path / "out")
    auc = result.metrics["test"].auc
    assert auc.low is not None
    assert auc.high is not None
    assert auc.low < 0.5 < auc.high

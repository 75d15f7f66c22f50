"""Heads written without an encoder become models like any author's checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_wsi_xai.errors import BadArgumentError, CheckpointError, ModelFileError
from napari_wsi_xai.models import (
    MIL_ARCHITECTURES,
    bundle_checkpoint,
    import_checkpoint,
    inspect_checkpoint,
)
from napari_wsi_xai.training.facts import FeatureFacts
from napari_wsi_xai.training.heads import build_head
from napari_wsi_xai.training.module import MILModule
from napari_wsi_xai.training.recipes import recipe_for
from napari_wsi_xai.training.results import write_model
from planted import planted_cohort


def written(name: str, folder: Path, **settings: Any) -> tuple[Path, MILModule]:
    recipe = recipe_for(name, seed=3, **settings)
    module = MILModule(build_head(recipe, 12, 2, 2), recipe)
    facts = FeatureFacts(12, mpps=(2.0, 1.0))
    cohort = planted_cohort(folder, (2, 2), count=2)
    return write_model(module, cohort, facts, None, folder, {"training": {"best_epoch": 7}}), module


@pytest.mark.parametrize("name", sorted(MIL_ARCHITECTURES))
def test_every_head_opens_again(name: str, tmp_path: Path) -> None:
    settings = {"dim": 16} if "transmil" in name else {}
    path, module = written(name, tmp_path, **settings)
    head = import_checkpoint(path)
    assert head.arguments == module.head.arguments
    assert head.architecture == name
    ours, theirs = head.state_dict(), module.head.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    facts = inspect_checkpoint(path)
    assert (facts.architecture, facts.num_classes) == (name, 2)


def test_it_becomes_a_model_with_its_own_classes(tmp_path: Path) -> None:
    path, module = written("clam-sb", tmp_path)
    model = bundle_checkpoint(path, "small-4-8-12", ("normal", "tumor"), 64, 0.5)
    assert model.metadata["training"] == {"best_epoch": 7}
    assert model.mil.arguments == module.head.arguments
    with pytest.raises(BadArgumentError, match=r"give normal,tumor, in this order"):
        bundle_checkpoint(path, "small-4-8-12", ("tumor", "normal"), 64, 0.5)
    with pytest.raises(CheckpointError, match="holds a clam-sb head, not abmil"):
        import_checkpoint(path, "abmil")


def test_damaged_ones_are_told(tmp_path: Path) -> None:
    path, module = written("mean", tmp_path)
    tensors = load_file(path)
    save_file(tensors, path, {"napari_wsi_xai_head": "{"})
    with pytest.raises(ModelFileError, match="what it says of its head cannot be read"):
        import_checkpoint(path)
    about = {"architecture": "mean", "arguments": module.head.arguments, "classes": ["a", "b"]}
    about["arguments"] = {**module.head.arguments, "in_features": 13}
    save_file(tensors, path, {"napari_wsi_xai_head": json.dumps(about)})
    with pytest.raises(CheckpointError, match="its tensors are not those of the mean head"):
        import_checkpoint(path)

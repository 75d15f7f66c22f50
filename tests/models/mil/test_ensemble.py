"""The mean of several heads, from closed forms, for every architecture that one can be made of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from napari_wsi_xai.errors import BadArgumentError, CheckpointError, ModelError, ModelFileError
from napari_wsi_xai.models import MIL_ARCHITECTURES, build_mil, build_model, load_model, save_model
from napari_wsi_xai.models.mil.base import MILModel
from napari_wsi_xai.models.mil.dsmil import DSMIL
from napari_wsi_xai.models.mil.ensemble import EnsembleMIL, ensemble_of
from napari_wsi_xai.runs import FeatureBag, open_run, score
from napari_wsi_xai.runs.bag import evaluate_bag

D = 12
SMALL: dict[str, dict[str, Any]] = {
    "sparseconvmil": {"channels": [8, 6], "hidden": [8], "downsample": 100.0},
    "transmil": {"dim": 16, "heads": 2},
    "xmil-transmil": {"dim": 16, "heads": 2},
    "chowder": {"n_extreme": 3, "hidden": [8, 4]},
}
SINGLE = [n for n in sorted(MIL_ARCHITECTURES) if build_mil(n, D).magnification_use == "single"]


def members_of(name: str, count: int = 3, classes: int = 2, **more: Any) -> list[MILModel]:
    heads = []
    for seed in range(count):
        torch.manual_seed(seed)
        heads.append(build_mil(name, D, classes, **SMALL.get(name, {}), **more).double())
    return heads


def bag(tiles: int = 23, seed: int = 0) -> tuple[Tensor, Tensor]:
    places = torch.stack([torch.arange(tiles) // 5, torch.arange(tiles) % 5], dim=1) * 100
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tiles, D, generator=generator, dtype=torch.float64), places


@torch.no_grad()
def test_all_of_it_is_the_mean_of_the_members() -> None:
    for name in SINGLE:
        for classes in (2, 3):
            heads = members_of(name, classes=classes)
            out = ensemble_of(heads)(*bag())
            each = [head(*bag()) for head in heads]
            chances = torch.stack(
                [h.probabilities(o.logits) for h, o in zip(heads, each, strict=True)]
            )
            ours = ensemble_of(heads).probabilities(out.logits)
            torch.testing.assert_close(ours, chances.mean(0), rtol=0, atol=1e-12, msg=name)
            scores = torch.stack([one.tile_scores for one in each]).mean(0)
            torch.testing.assert_close(out.tile_scores, scores, rtol=0, atol=1e-12)
            descriptors = torch.cat([one.slide_descriptor for one in each])
            assert torch.equal(out.slide_descriptor, descriptors)
            assert (out.attention is None) == (each[0].attention is None)
            if out.attention is not None:
                total = torch.ones(out.attention.shape[1], dtype=torch.float64)
                torch.testing.assert_close(out.attention.sum(0), total, rtol=0, atol=1e-12)
                mean = sum(one.attention for one in each) / 3
                torch.testing.assert_close(out.attention, mean, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("name", SINGLE)
def test_the_three_blocks_one_after_the_other_are_the_whole(name: str) -> None:
    ensemble = ensemble_of(members_of(name))
    features, places = bag()
    whole = ensemble(features, places)
    scores = ensemble.score_tiles(features, places)
    descriptor, attention = ensemble.aggregate(scores, features, places)
    torch.testing.assert_close(scores, whole.tile_scores, rtol=0, atol=1e-12)
    torch.testing.assert_close(ensemble.decide(descriptor), whole.logits, rtol=0, atol=1e-12)
    assert torch.equal(descriptor, whole.slide_descriptor)
    assert (attention is None) == (whole.attention is None)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["softmax", "single", "sigmoids"]),
    st.integers(1, 6),
    st.lists(st.floats(-60, 60), min_size=18, max_size=18),
)
def test_logits_stand_for_the_mean_of_probabilities(
    kind: str, count: int, values: list[float]
) -> None:
    single, classes = kind == "single", 2 if kind == "single" else 3
    make = DSMIL if kind == "sigmoids" else MIL_ARCHITECTURES["mean"]
    head = make(4, classes, single)
    width = 1 if single else 3
    logits = torch.tensor(values[: count * width], dtype=torch.float64).view(count, width)
    mean = torch.stack([head.probabilities(row) for row in logits]).mean(0)
    got = head.probabilities(head.mean_logits(logits))
    torch.testing.assert_close(got, mean, rtol=0, atol=1e-12)
    assert torch.isfinite(head.mean_logits(logits)).all()
    if kind == "softmax":  # the logarithms of the mean, and not those and a constant
        total = float(head.mean_logits(logits).exp().sum())
        assert total == pytest.approx(1, abs=1e-12)


def test_a_member_alone_is_itself_and_members_may_come_in_any_order() -> None:
    heads = members_of("chowder", 4, single_logit=True)
    alone, head = ensemble_of(heads[:1])(*bag()), heads[0](*bag())
    torch.testing.assert_close(alone.logits, head.logits, rtol=0, atol=1e-12)
    one, other = ensemble_of(heads), ensemble_of(heads[::-1])
    torch.testing.assert_close(one(*bag()).logits, other(*bag()).logits, rtol=0, atol=1e-12)


def test_the_mean_of_probabilities_is_not_the_mean_of_logits() -> None:
    """One member that is sure does not outvote two that are not."""
    logits = torch.tensor([[40.0], [-1.0], [-1.0]])
    head = build_mil("mean", 4, 2, single_logit=True)
    third = (1 + 2 / (1 + np.e)) / 3
    chance = float(head.probabilities(head.mean_logits(logits))[1])
    assert chance == pytest.approx(third, rel=1e-5)
    assert float(torch.sigmoid(logits.mean())) > 0.99


def test_weights_are_copied() -> None:
    heads = members_of("mean", 2)
    ensemble = ensemble_of(heads)
    before = ensemble(*bag()).logits
    for parameter in heads[0].parameters():
        parameter.data.zero_()
    assert torch.equal(ensemble(*bag()).logits, before)
    assert not ensemble.training


def test_callers_random_numbers_are_left_alone() -> None:
    heads = members_of("mean", 2)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    ensemble_of(heads)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("name", ["chowder", "abmil", "transmil", "dsmil"])
def test_arguments_bundles_and_blocks(name: str, tmp_path: Path) -> None:
    heads = [head.float() for head in members_of(name)]
    ensemble = ensemble_of(heads)
    again = build_mil("ensemble", **json.loads(json.dumps(ensemble.arguments)))
    again.load_state_dict(ensemble.state_dict())
    features, places = bag()
    features = features.float()
    expected = ensemble(features, places)
    assert torch.equal(again(features, places).logits, expected.logits)
    own = {k: v for k, v in ensemble.arguments.items() if k not in ("in_features", "num_classes")}
    model = replace(build_model("small-4-8-12", "ensemble", **own), mil=ensemble)
    opened = load_model(save_model(model, tmp_path / "m.safetensors")).mil
    assert isinstance(opened, EnsembleMIL)
    assert opened.score_kind == f"{heads[0].score_kind}, mean of 3"
    assert opened.scores_per_tile == heads[0].scores_per_tile
    cuts = [(0, 5), (5, 6), (6, 23)]
    parts = evaluate_bag(
        opened, lambda: ((features[a:b].numpy(), places[a:b].numpy()) for a, b in cuts)
    )
    torch.testing.assert_close(parts.logits, expected.logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.tile_scores, expected.tile_scores, rtol=1e-5, atol=1e-6)


def test_arguments_are_whole_and_as_json_keeps_them() -> None:
    """So a change of a default makes no file another head."""
    given = {"member_arguments": {"hidden": (8, 4)}, "members": np.int64(2)}
    told = build_mil("ensemble", D, **given).arguments
    assert told["member_arguments"]["hidden"] == [8, 4]
    assert told["member_arguments"]["n_extreme"] == 5
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"members": 0}, "members=0 must be at least 1"),
        ({"members": 1.5}, "members=1.5 must be a whole number"),
        ({"member": "ensemble"}, "member='ensemble' must be one of mean, max"),
        ({"member": "zoommil"}, "member='zoommil' is a head over several"),
        (
            {"member": "dsmil", "member_arguments": {"num_magnifications": 2}},
            "member='dsmil' is a head over several",
        ),
        ({"member_arguments": {"n_extrem": 3}}, "MIL architecture 'chowder'.*'n_extrem'"),
        ({"member_arguments": {"num_classes": 3}}, "has num_classes=3, which is of the whole"),
        ({"member_arguments": [3]}, r"member_arguments=\[3\] must be arguments by name"),
    ],
)
def test_what_makes_no_ensemble_is_told(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(BadArgumentError, match=words):
        build_mil("ensemble", D, 2, **arguments)


def test_heads_that_differ_make_none() -> None:
    with pytest.raises(BadArgumentError, match="there are 0 heads"):
        ensemble_of([])
    with pytest.raises(BadArgumentError, match=r"head 2 is mean with .* not as the first max"):
        ensemble_of([build_mil("max", 4), build_mil("mean", 4)])
    with pytest.raises(BadArgumentError, match=r"head 3 is chowder with .*'n_extreme': 4"):
        ensemble_of([build_mil("chowder", 4, n_extreme=n) for n in (3, 3, 4)])


def test_bags_that_do_not_fit_are_told_of_the_ensemble() -> None:
    ensemble = build_mil("ensemble", D, members=2)
    with pytest.raises(ModelError, match=rf"this ensemble head takes \(number of tiles, {D}\)"):
        ensemble(torch.zeros(3, D + 1))
    with pytest.raises(ModelError, match="give it the descriptors"):
        ensemble.aggregate(torch.zeros(3, 1), None)


def test_gradients_reach_every_member() -> None:
    ensemble = build_mil("ensemble", D, members=3, member="abmil", member_arguments={"hidden": 8})
    ensemble(bag()[0].float()).logits[1].backward()
    for member in ensemble.members:
        assert all(float(p.grad.abs().sum()) > 0 for p in member.parameters() if p.grad is not None)
        assert any(p.grad is not None for p in member.parameters())


def test_files_with_a_member_missing_are_damaged(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from napari_wsi_xai.models import import_checkpoint
    from napari_wsi_xai.models.checkpoints.reading import HEAD_KEY

    ensemble = build_mil("ensemble", D, members=2, member="mean")
    about = {"architecture": "ensemble", "arguments": ensemble.arguments, "classes": ["a", "b"]}
    path = tmp_path / "head.safetensors"
    save_file(dict(ensemble.state_dict()), path, {HEAD_KEY: json.dumps(about)})
    opened = import_checkpoint(path)
    assert torch.equal(opened(bag()[0].float()).logits, ensemble(bag()[0].float()).logits)
    with pytest.raises(BadArgumentError, match=r"contradicts|no option"):
        import_checkpoint(path, members=3)
    tensors = {k: v for k, v in load_file(path).items() if not k.startswith("members.1")}
    save_file(tensors, path, {HEAD_KEY: json.dumps(about)})
    with pytest.raises((CheckpointError, ModelFileError), match="those of the ensemble head"):
        import_checkpoint(path)


def test_a_slide_is_scored_as_the_mean_of_its_members_says(
    textured_slide: Any, tiny_model: Any, tmp_path: Path
) -> None:
    """Run, store and maps are those of any head."""
    members = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        members.append(build_mil("abmil", tiny_model.encoder.dim, 2, hidden=8))
    model = replace(tiny_model, mil=ensemble_of(members))
    fast = {"engine": "torch", "precision": "float32"}
    run = score(textured_slide, model, tmp_path / "run.wsixai.zarr", **fast).compute()
    features = torch.from_numpy(FeatureBag.of(run).features)
    each = [head.probabilities(head(features).logits).detach() for head in members]
    mean = (each[0] + each[1]) / 2
    assert list(run.probabilities.values()) == pytest.approx(mean.tolist(), abs=1e-6)
    again = open_run(run.path)
    assert again.score_kind == "attention logit, mean of 2"
    assert set(again.maps) == {"attention/all", "tile-scores/all"}
    assert float(np.nansum(again.maps["attention/all"])) == pytest.approx(1, abs=1e-5)

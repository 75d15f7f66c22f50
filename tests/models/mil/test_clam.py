"""CLAM against reference numbers, plain loops and its own promises."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, multi_margin_loss

from golden_cases import assert_near, cases, rebuild
from napari_wsi_xai.errors import BadArgumentError, ModelError
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.models.checkpoints.layouts.clam import LAYOUTS
from napari_wsi_xai.models.mil.clam import CLAM

BOTH = pytest.mark.parametrize("architecture", ["clam-sb", "clam-mb"])
GATES = pytest.mark.parametrize("gated", [True, False])


def head_of(case, **options) -> CLAM:
    return rebuild(LAYOUTS, case.state_dict, k_sample=case.meta["kwargs"]["k_sample"], **options)


def small(architecture, classes=3, **arguments):
    torch.manual_seed(4)
    sizes = {"hidden": 7, "attention": 5, "k_sample": 3}
    return build_mil(architecture, 12, classes, **(sizes | arguments)).double()


def bag(n=9, d=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=draw, dtype=torch.float64)


def test_forward_equals_the_authors(golden):
    for case in cases(golden, "clam", "clam_*.npz"):
        model = head_of(case)
        assert model.arguments["gated"] == case.meta["kwargs"]["gate"]
        out = model(case.tensor("in/h"))
        probabilities = model.probabilities(out.logits)
        assert_near(out.logits, case["out/logits"][0], f"{case}: logits")
        assert_near(out.tile_scores.T, case["out/A_raw"], f"{case}: scores")
        assert_near(out.attention.T, case["out/A_softmax"], f"{case}: attention")
        assert_near(out.slide_descriptor, case["out/M"].flatten(), f"{case}: descriptor")
        assert_near(probabilities, case["out/Y_prob"][0], f"{case}: probabilities")
        assert int(probabilities.argmax()) == int(case["out/Y_hat"].item())


def test_double_precision_equals_the_authors(golden):
    for case in cases(golden, "clam", "clam_*.npz"):
        out = head_of(case).double()(case.tensor("in/h"))
        ours = {"A_raw": out.tile_scores.T, "logits": out.logits[None]}
        stored = [key for key in case.arrays if key.startswith("out64/")]
        assert stored
        for key in stored:
            values = ours[key.removeprefix("out64/")].detach().numpy()
            np.testing.assert_allclose(values, case[key], rtol=1e-9, atol=1e-12, err_msg=key)


def test_gradients_equal_the_authors(golden):
    for case in cases(golden, "clam", "clam_*.npz"):
        model, features = head_of(case), case.tensor("in/h").requires_grad_()
        out = model(features)
        wanted = {
            "grad/logits_wrt_h": out.logits,
            "grad/Y_prob_wrt_h": model.probabilities(out.logits),
            "grad/A_raw_wrt_h": out.tile_scores.sum(dim=0),
        }
        for key, values in wanted.items():
            gradients = [
                torch.autograd.grad(value, features, retain_graph=True)[0] for value in values
            ]
            assert_near(torch.stack(gradients), case[key], f"{case}: {key}")


def test_instances_are_judged_as_the_authors_do(golden):
    for case in cases(golden, "clam", "clam_*.npz"):
        features = case.tensor("in/h")
        assert_near(head_of(case).classify_instances(features), case["out/instance_logits_all"])
        checked = 0
        for label in range(len(case["out/instance_logits_all"])):
            for subtyping, kind in ((False, "inst"), (True, "inst_subtyping")):
                found = head_of(case, subtyping=subtyping).instance_evaluation(features, label)
                stem = f"out/{kind}_label{label}"
                assert_near(found.loss[None], case[f"{stem}/loss"], f"{case}: {stem}")
                assert found.targets.tolist() == case[f"{stem}/targets"].tolist()
                assert found.predictions.tolist() == case[f"{stem}/preds"].tolist()
                checked += 1
        assert checked == sum(1 for key in case.arrays if key.endswith("/preds"))


@torch.no_grad()
def twin(model, features):
    """Scores (N, K), attention (N, K), descriptors (K, hidden) and logits, tile by tile."""
    h = [(model.projection.weight @ x + model.projection.bias).clamp(min=0) for x in features]
    scores = []
    for x in h:
        inner = torch.tanh(model.attention_V.weight @ x + model.attention_V.bias)
        if model.gated:
            gate = model.attention_U.weight @ x + model.attention_U.bias
            inner = inner / (1 + torch.exp(-gate))
        scores.append((model.attention_w.weight @ inner + model.attention_w.bias).tolist())
    attention, descriptors = [], []
    for k in range(len(scores[0])):
        weights = [math.exp(row[k]) for row in scores]
        attention.append([w / sum(weights) for w in weights])
        descriptors.append(sum(a * x for a, x in zip(attention[-1], h, strict=True)))
    if model.architecture == "clam-sb":
        logits = model.classifier.weight @ descriptors[0] + model.classifier.bias
    else:
        pairs = zip(model.classifiers, descriptors, strict=True)
        logits = torch.cat([c.weight @ m + c.bias for c, m in pairs])
    scores, attention = (torch.tensor(x, dtype=torch.float64) for x in (scores, attention))
    return scores, attention.T, torch.stack(descriptors), logits


@BOTH
@GATES
def test_equations_number_by_number(architecture, gated):
    model, features = small(architecture, gated=gated), bag()
    scores, attention, descriptors, logits = twin(model, features)
    out = model(features)
    assert out.tile_scores.shape == (9, 1 if architecture == "clam-sb" else 3)
    torch.testing.assert_close(out.tile_scores, scores)
    torch.testing.assert_close(out.attention, attention)
    torch.testing.assert_close(out.slide_descriptor, descriptors.flatten())
    torch.testing.assert_close(out.logits, logits)


@BOTH
@GATES
def test_gradients_are_those_of_finite_differences(architecture, gated):
    model = small(architecture, gated=gated)
    features = bag(5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model(x).logits, features)
    assert torch.autograd.gradcheck(lambda x: model.instance_evaluation(x, 1).loss, features)


@given(st.integers(1, 15), st.integers(0, 99), st.sampled_from(["clam-sb", "clam-mb"]))
def test_each_branch_averages_with_its_own_attention(n, seed, architecture):
    model, features = small(architecture), bag(n, seed=seed)
    out = model(features)
    k = out.attention.shape[1]
    torch.testing.assert_close(out.attention.sum(0), torch.ones(k, dtype=torch.float64))
    branches = out.slide_descriptor.reshape(k, -1)
    for branch, weights in zip(branches, out.attention.T, strict=True):
        torch.testing.assert_close(branch, weights @ model.project(features))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(model(features[order]).logits, out.logits)


def test_a_branch_decides_its_own_class_only():
    model, features = small("clam-mb"), bag()
    before = model(features).logits
    with torch.no_grad():
        model.attention_w.weight[1] *= -3
    after = model(features).logits
    assert before[[0, 2]].tolist() == after[[0, 2]].tolist()
    assert (before[1] - after[1]).abs() > 1e-3


@BOTH
def test_instances_in_closed_form(architecture):
    """Classes in order; the bag's own gives its k most then k least attended tiles."""
    label, k = 1, 3
    model, features = small(architecture, subtyping=True), bag()
    out, logits = model(features), model.classify_instances(features)
    rows, targets, losses = [], [], []
    for c in range(3):
        column = out.tile_scores[:, min(c, out.tile_scores.shape[1] - 1)].tolist()
        ranked = sorted(range(9), key=lambda j: -column[j])
        chosen = ranked[:k] + (ranked[::-1][:k] if c == label else [])
        wanted = ([1] * k + [0] * k) if c == label else [0] * k
        rows.append(logits[c][chosen])
        targets += wanted
        per_tile = [-torch.log_softmax(z, 0)[t] for z, t in zip(rows[-1], wanted, strict=True)]
        losses.append(sum(per_tile) / len(per_tile))
    found = model.instance_evaluation(features, label)
    torch.testing.assert_close(found.logits, torch.cat(rows))
    torch.testing.assert_close(found.loss, sum(losses) / 3)
    assert found.targets.tolist() == targets
    assert found.predictions.tolist() == [int(z[1] > z[0]) for z in found.logits]
    alone = small(architecture).instance_evaluation(features, label)
    torch.testing.assert_close(alone.loss, losses[label])
    assert alone.targets.tolist() == [1, 1, 1, 0, 0, 0]


def test_any_loss_can_be_given():
    model, features = small("clam-sb"), bag()
    found = model.instance_evaluation(features, 0, loss=multi_margin_loss)
    torch.testing.assert_close(found.loss, multi_margin_loss(found.logits, found.targets))
    plain = model.instance_evaluation(features, 0)
    torch.testing.assert_close(plain.loss, cross_entropy(found.logits, found.targets))


def test_instances_train_their_classifier_and_the_projection():
    model = small("clam-sb")
    model.instance_evaluation(bag(), 2).loss.backward()
    assert model.instance_classifiers[2].weight.grad.abs().sum() > 0
    assert model.projection.weight.grad.abs().sum() > 0
    assert model.instance_classifiers[0].weight.grad is None


@BOTH
def test_too_few_tiles_for_instances_still_make_a_decision(architecture):
    model = small(architecture, k_sample=4)
    with pytest.raises(ModelError, match=r"k_sample=4.* 3 tiles"):
        model.instance_evaluation(bag(3), 0)
    assert len(model.instance_evaluation(bag(4), 0).targets) == 8
    assert torch.isfinite(model(bag(3)).logits).all()


@pytest.mark.parametrize("label", [-1, 3])
def test_label_must_be_a_class(label):
    with pytest.raises(BadArgumentError, match=f"label={label}.* 2"):
        small("clam-sb").instance_evaluation(bag(), label)


@BOTH
@pytest.mark.parametrize("name", ["hidden", "attention", "k_sample"])
def test_sizes_must_be_positive(architecture, name):
    with pytest.raises(BadArgumentError, match=f"{name}=0"):
        build_mil(architecture, 12, 3, **{name: 0})


@BOTH
def test_single_logit(architecture):
    model = small(architecture, 2, single_logit=True)
    out = model(bag())
    assert out.logits.shape == (1,)
    assert out.tile_scores.shape == (9, 1)
    assert len(model.instance_evaluation(bag(), 1).targets) == 6


def test_dropout_acts_in_training_only():
    model = small("clam-sb", dropout=0.5)
    evaluated = model(bag()).logits
    torch.testing.assert_close(model(bag()).logits, evaluated, rtol=0, atol=0)
    model.train()
    torch.manual_seed(0)
    assert (model(bag()).logits - evaluated).abs().max() > 1e-3
    calm = small("clam-sb", dropout=0.0)
    torch.testing.assert_close(calm.train()(bag()).logits, evaluated)

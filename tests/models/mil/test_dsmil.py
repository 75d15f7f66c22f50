"""DSMIL against reference numbers, a plain loop and its own promises."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden_cases import assert_near, cases, fitting, rebuild
from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.models.checkpoints.layouts.dsmil import LAYOUTS


def bag(n=9, d=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=draw, dtype=torch.float64)


def small(classes=3, **arguments):
    torch.manual_seed(3)
    return build_mil("dsmil", 12, classes, hidden=5, **arguments).double()


@pytest.fixture
def stored(golden, shared_data):
    """Every case with its tensors; those of published checkpoints lie beside the numbers."""
    found = []
    for case in cases(golden, "dsmil"):
        name = case.name.replace("author_ckpt_", "dsmil_")
        weights = shared_data / "weights" / f"{name}_aggregator.pth"
        if case.state_dict:
            found.append((case, case.state_dict))
        elif weights.is_file():
            found.append((case, torch.load(weights, map_location="cpu", weights_only=True)))
    assert {"author_ckpt_c16", "dsmil_C2"} <= {case.name for case, _ in found}
    return found


def test_equals_the_authors(stored):
    for case, state in stored:
        head, features = rebuild(LAYOUTS, state), case.tensor("in/x")
        out = head(features)
        assert_near(out.logits, case["out/prediction_bag"][0], f"{case}: logits")
        assert_near(out.tile_scores, case["out/A_raw_scaled"], f"{case}: scores")
        assert_near(out.attention, case["out/A"], f"{case}: attention")
        assert_near(out.slide_descriptor, case["out/B"].reshape(-1), f"{case}: descriptor")
        assert_near(head.classify_tiles(features), case["out/classes"], f"{case}: classes")
        assert_near(head.query(features), case["out/Q"], f"{case}: queries")
        critical = head.critical_tiles(features)
        assert critical.tolist() == case["out/critical_index"].tolist()
        assert_near(head.query(features)[critical], case["out/q_max"], f"{case}: q_max")
        best = head.classify_tiles(features).amax(0)
        assert_near(best, case["out/max_prediction"], f"{case}: best")
        probabilities = head.probabilities(out.logits)
        if head.single_logit:
            probabilities = probabilities[1:]
        assert_near(probabilities, case["out/prob_bag"][0], f"{case}: probabilities")


def test_gradients_equal_the_authors(stored):
    """The critical tile's double path included."""
    for case, state in stored:
        head, features = rebuild(LAYOUTS, state), case.tensor("in/x").requires_grad_()
        out = head(features)

        def gradients(values, wrt=features):
            of = [torch.autograd.grad(v, wrt, retain_graph=True)[0] for v in values]
            return torch.stack(of)

        def own_gradients(scores, of=gradients):
            """Of each tile's score with regard to that tile, (C, N, D)."""
            return torch.stack([torch.stack(list(of(c).diagonal().T)) for c in scores.T])

        classes = head.classify_tiles(features)
        wanted = {
            "prediction_bag": gradients(out.logits),
            "A_raw_scaled_self": own_gradients(out.tile_scores),
            "classes": own_gradients(classes),
            "max_prediction": gradients(classes.amax(0)),
        }
        for name, gradient in wanted.items():
            assert_near(gradient, case[f"grad/{name}_wrt_x"], f"{case}: {name}")


def test_double_precision_equals_its_twin(stored):
    """But for the square root of Q, which is taken in single precision there."""
    for case, state in stored:
        head = rebuild(LAYOUTS, state).double()
        features = case.tensor("in/x").double()
        out = head(features)
        pairs = {
            "prediction_bag": out.logits[None],
            "A": out.attention,
            "classes": head.classify_tiles(features),
        }
        for name, value in pairs.items():
            twin = case[f"out64/{name}"]
            np.testing.assert_allclose(value.detach(), twin, rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("nonlinear", [True, False])
@pytest.mark.parametrize("passing_v", [True, False])
def test_equations_written_out_tile_by_tile(nonlinear, passing_v):
    head, features = small(nonlinear=nonlinear, passing_v=passing_v), bag()
    out = head(features)
    q = [head.query(d) for d in features]
    v = [torch.relu(head.value[1](d)) if passing_v else d for d in features]
    descriptors = []
    for k in range(3):
        w, b = head.tile_classifier.weight[k], head.tile_classifier.bias[k]
        scores = [float((w @ d + b).detach()) for d in features]
        critical = scores.index(max(scores))
        raw = torch.stack([q_j @ q[critical] / 5**0.5 for q_j in q])
        weights = raw.exp() / raw.exp().sum()
        descriptors.append(sum(a * v_j for a, v_j in zip(weights, v, strict=True)))
        torch.testing.assert_close(out.tile_scores[:, k], raw)
        torch.testing.assert_close(out.attention[:, k], weights)
    mixing = head.classifier.weight.view(3, 3, 12)
    logits = [sum(w @ d for w, d in zip(rows, descriptors, strict=True)) for rows in mixing]
    torch.testing.assert_close(out.logits, torch.stack(logits) + head.classifier.bias)
    assert len(head.query) == (4 if nonlinear else 1)


@given(st.integers(1, 12), st.integers(0, 99))
def test_order_of_tiles_does_not_matter(n, seed):
    head, features, order = small(), bag(n, seed=seed), torch.randperm(n)
    one, other = head(features), head(features[order])
    torch.testing.assert_close(one.logits, other.logits)
    torch.testing.assert_close(one.attention[order], other.attention)
    torch.testing.assert_close(one.attention.sum(0), torch.ones(3).double())


def test_classes_are_told_apart_one_by_one():
    head = small()
    probabilities = head.probabilities(torch.tensor([0.0, 20.0, 20.0]))
    assert probabilities.tolist() == pytest.approx([0.5, 1, 1])
    single = small(2, single_logit=True)
    assert single.probabilities(torch.tensor([0.0])).tolist() == [0.5, 0.5]


def test_several_magnifications_are_one_long_descriptor():
    head = small(num_magnifications=3)
    assert (head.magnification_use, head.num_magnifications) == ("concat", 3)
    assert small().magnification_use == "single"
    with pytest.raises(BadArgumentError, match=r"in_features=12.*num_magnifications=5"):
        small(num_magnifications=5)
    with pytest.raises(BadArgumentError, match="hidden=0"):
        build_mil("dsmil", 12, hidden=0)


def authors_tensors(fc="fc.0", nonlinear=True, passing_v=False):
    """A random head under the authors' names."""
    shapes = {f"i_classifier.{fc}": (3, 12), "b_classifier.fcc": (3, 3, 12)}
    if nonlinear:
        shapes |= {"b_classifier.q.0": (5, 12), "b_classifier.q.2": (5, 5)}
    else:
        shapes["b_classifier.q"] = (5, 12)
    if passing_v:
        shapes["b_classifier.v.1"] = (12, 12)
    weights = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    return weights | {f"{name}.bias": torch.randn(shape[0]) for name, shape in shapes.items()}


@pytest.mark.parametrize("fc", ["fc.0", "fc"])
@pytest.mark.parametrize("nonlinear", [True, False])
@pytest.mark.parametrize("passing_v", [True, False])
def test_every_published_variant_is_told_apart(fc, nonlinear, passing_v):
    tensors = authors_tensors(fc, nonlinear, passing_v)
    head = rebuild(LAYOUTS, tensors)
    assert head.arguments["nonlinear"] is nonlinear
    assert head.arguments["passing_v"] is passing_v
    assert (head.in_features, head.num_classes, head.arguments["hidden"]) == (12, 3, 5)
    features = torch.randn(6, 12)
    wanted = features @ tensors[f"i_classifier.{fc}.weight"].T + tensors[f"i_classifier.{fc}.bias"]
    torch.testing.assert_close(head.classify_tiles(features), wanted)


def test_an_attached_embedder_is_no_part_of_the_head():
    tensors = authors_tensors("fc")
    tensors["i_classifier.feature_extractor.conv1.weight"] = torch.randn(4, 3, 7, 7)
    (layout,) = fitting(LAYOUTS, tensors)
    assert "IClassifier" in layout.source
    assert rebuild(LAYOUTS, tensors).in_features == 12

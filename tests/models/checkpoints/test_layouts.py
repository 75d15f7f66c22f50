"""Authors' names for heads of one bag: every layout gives back the head that it was made of."""

import re

import pytest
import torch

from napari_wsi_xai import import_checkpoint
from napari_wsi_xai.errors import BadArgumentError, CheckpointError
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.models.checkpoints.layouts import (
    abmil,
    chowder,
    clam,
    instance,
    mil_fc,
    xmil_attnmil,
)

D = 12
CLAM = {"hidden": 7, "attention": 5}


def head(architecture, classes=3, **arguments):
    torch.manual_seed(6)
    return build_mil(architecture, D, classes, **arguments)


def authors_names(layout, model):
    """The tensors of a head by the names that a layout has for them."""
    named = {}
    for ours, tensor in model.state_dict().items():
        for theirs, template in layout.names.items():
            match = re.fullmatch(re.escape(template).replace(r"\*", r"(\d+)"), ours)
            if match:
                numbers = iter(match.groups())
                named[re.sub(r"\*", lambda _, n=numbers: next(n), theirs)] = tensor
    assert len(named) == len(model.state_dict())
    return named


def assert_same(opened, model):
    """The same architecture and, bit for bit, the same output."""
    assert opened.architecture == model.architecture
    assert not opened.training
    told = {key for key in model.arguments if key not in ("k_sample", "dropout")}
    assert {k: opened.arguments[k] for k in told} == {k: model.arguments[k] for k in told}
    features = torch.randn(9, D, generator=torch.Generator().manual_seed(1))
    one, other = opened(features), model(features)
    for field in ("logits", "tile_scores", "slide_descriptor"):
        assert torch.equal(getattr(one, field), getattr(other, field))


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("layout", clam.LAYOUTS, ids=lambda layout: layout.source)
def test_clam(layout, classes):
    """The sizes are those of the tensors; dropout moves names where there is no gate."""
    gated = "not gated" not in layout.source
    options = {"single_logit": True} if classes == 1 else {}
    model = head(layout.architecture, max(2, classes), gated=gated, **CLAM, **options)
    tensors = authors_names(layout, model)
    assert any(".module." in name for name in tensors) == (
        not gated and "taken off" not in layout.source
    )
    opened = import_checkpoint(tensors)
    assert_same(opened, model)
    assert opened.arguments["dropout"] == (0.0 if "no dropout" in layout.source else 0.25)


def test_clam_without_gate_in_the_authors_own_names():
    """Both forms written out: the last layer is number 2 without dropout, 3 with it."""
    for last, dropout in ((2, 0.0), (3, 0.25)):
        model = head("clam-sb", 2, gated=False, **CLAM)
        names = {
            "attention_net.0": model.projection,
            "attention_net.3.module.0": model.attention_V,
            f"attention_net.3.module.{last}": model.attention_w,
            "classifiers": model.classifier,
            "instance_classifiers.0": model.instance_classifiers[0],
            "instance_classifiers.1": model.instance_classifiers[1],
        }
        tensors = {
            f"{name}.{leaf}": tensor
            for name, layer in names.items()
            for leaf, tensor in layer.state_dict().items()
        }
        opened = import_checkpoint(tensors)
        assert_same(opened, model)
        assert opened.arguments["dropout"] == dropout
        cleaned = {name.replace(".module", ""): tensor for name, tensor in tensors.items()}
        assert f"attention_net.3.{last}.bias" in cleaned
        assert_same(import_checkpoint(cleaned), model)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_older_clam_checkpoints_went_through_data_parallel(gated, multi, whole):
    """``module.`` before the whole head or inside ``attention_net``, and a loss's tensors."""
    model = head("clam-mb" if multi else "clam-sb", gated=gated, **CLAM)
    layout = next(
        layout
        for layout in clam.LAYOUTS
        if layout.architecture == model.architecture and ("not gated" not in layout.source) == gated
    )
    tensors = {
        f"module.{name}" if whole else name.replace("attention_net.", "attention_net.module.", 1): x
        for name, x in authors_names(layout, model).items()
    }
    tensors["instance_loss_fn.labels"] = torch.arange(2)
    assert_same(import_checkpoint(tensors), model)


def test_options_that_clam_tensors_do_not_tell():
    tensors = authors_names(clam.LAYOUTS[0], head("clam-sb", **CLAM))
    opened = import_checkpoint(tensors, k_sample=2, subtyping=True)
    assert len(opened.instance_evaluation(torch.ones(5, D), 0).targets) == 2 * 2 + 2 + 2


def test_clam_of_other_heads_mixed_is_refused():
    tensors = authors_names(clam.LAYOUTS[0], head("clam-sb", **CLAM))
    del tensors["attention_net.3.attention_b.0.weight"]
    with pytest.raises(CheckpointError, match=r"attention_b\.0\.weight"):
        import_checkpoint(tensors)


@pytest.mark.parametrize("layout", abmil.LAYOUTS, ids=lambda layout: layout.source)
@pytest.mark.parametrize("single", [True, False])
def test_abmil(layout, single):
    model = head(layout.architecture, 2, single_logit=single, hidden=5)
    tensors = authors_names(layout, model)
    tensors["feature_extractor_part1.0.weight"] = torch.zeros(20, 1, 5, 5)
    assert_same(import_checkpoint(tensors), model)


@pytest.mark.parametrize(
    ("layout", "classes", "rule"),
    [
        (mil_fc.LAYOUTS[0], 2, "positive"),
        (mil_fc.LAYOUTS[1], 2, "any"),
        (mil_fc.LAYOUTS[1], 4, "any"),
    ],
)
def test_mil_fc_rule_is_told_by_a_letter(layout, classes, rule):
    model = head("mil-fc", classes, hidden=7, rule=rule)
    tensors = authors_names(layout, model)
    assert ("classifiers.weight" in tensors) == (rule == "any")
    assert_same(import_checkpoint(tensors), model)


@pytest.mark.parametrize("layout", xmil_attnmil.LAYOUTS, ids=lambda layout: layout.source)
@pytest.mark.parametrize(("layers", "out_layers"), [(1, 0), (3, 2)])
def test_xmil_attnmil(layout, layers, out_layers):
    sizes = {"hidden": 7, "attention": 5, "layers": layers, "out_layers": out_layers}
    model = head("xmil-attnmil", **sizes)
    assert_same(import_checkpoint(authors_names(layout, model)), model)


@pytest.mark.parametrize("layout", instance.LAYOUTS, ids=lambda layout: layout.source)
def test_instance_heads_look_alike(layout):
    model = head(layout.architecture)
    tensors = authors_names(layout, model)
    with pytest.raises(BadArgumentError, match="'mean' or 'max' or 'mil-sil'"):
        import_checkpoint(tensors)
    assert_same(import_checkpoint(tensors, layout.architecture), model)


def linear(tensors, name, layer):
    tensors |= {f"{name}.{leaf}": tensor for leaf, tensor in layer.state_dict().items()}


@pytest.mark.parametrize(("step", "convolution"), [(2, False), (3, False), (3, True)])
def test_chowder_of_the_paper(step, convolution):
    """With or without dropout between layers; the tile scorer linear or a convolution."""
    model = head("chowder", 2, n_extreme=4, hidden=(6, 5), single_logit=True)
    tensors = {}
    for i in range(3):
        linear(tensors, f"mlp.{i * step}", model.mlp[i * 3])
    weight = model.score.weight
    tensors["conv1d.weight"] = weight[..., None] if convolution else weight
    opened = import_checkpoint(tensors)
    assert_same(opened, model)
    assert opened.arguments["order"] == "bottom-top"
    other = import_checkpoint(tensors, order="top-bottom")
    features = torch.randn(9, D, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(other(features).logits, model(features).logits)


@pytest.mark.parametrize(("hidden", "score_hidden"), [((6, 5), (8,)), ((6,), (8, 4)), ((), (3,))])
def test_chowder_with_a_tile_perceptron(hidden, score_hidden):
    sizes = {"n_extreme": 4, "hidden": hidden, "score_hidden": score_hidden}
    model = head("chowder", 2, order="top-bottom", **sizes, single_logit=True)
    tensors = {}
    for i in range(len(score_hidden) + 1):
        linear(tensors, f"score_model.hidden_layers.{i * 2}", model.score[i * 2])
    for i in range(len(hidden)):
        linear(tensors, f"mlp.{i}.0", model.mlp[i * 3])
    linear(tensors, f"mlp.{len(hidden)}", model.mlp[len(hidden) * 3])
    assert_same(import_checkpoint(tensors), model)


def test_chowder_order_of_names_does_not_matter():
    """Ten layers: number 10 comes after 9, not after 1."""
    model = head(
        "chowder", 2, n_extreme=2, hidden=range(3, 14), order="top-bottom", score_hidden=[4]
    )
    tensors = {}
    for i in range(11):
        linear(tensors, f"mlp.{i}.0", model.mlp[i * 3])
    linear(tensors, "mlp.11", model.mlp[33])
    for i in range(2):
        linear(tensors, f"score_model.hidden_layers.{i * 2}", model.score[i * 2])
    assert_same(import_checkpoint(dict(sorted(tensors.items()))), model)
    assert len(chowder.LAYOUTS) == 2

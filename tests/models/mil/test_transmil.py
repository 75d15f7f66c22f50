"""TransMIL against reference numbers and its own promises."""

import numpy as np
import pytest
import torch

from golden_cases import assert_near, cases, rebuild
from napari_wsi_xai.errors import BadArgumentError, ModelError
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.models.checkpoints.layouts.transmil import LAYOUTS

CROPS = {"0.0.9": "front", "0.0.14": "back"}


def bag(n=7, d=12, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def small(**arguments):
    torch.manual_seed(3)
    return build_mil("transmil", 12, 3, dim=16, heads=4, **arguments)


@pytest.fixture
def stored(golden):
    """Every case with its head, cropped as the release of the attention it was made with."""
    return [
        (case, rebuild(LAYOUTS, case.state_dict, crop=CROPS[case.meta["nystrom_attention"]]))
        for case in cases(golden, "transmil")
    ]


def test_equals_the_authors(stored):
    for case, head in stored:
        out = head(case.tensor("in/data")[0])
        assert_near(out.logits, case["out/logits"][0], f"{case}: logits")
        assert_near(head.probabilities(out.logits), case["out/Y_prob"][0], f"{case}: Y_prob")
        assert_near(out.slide_descriptor, case["out/cls_final"][0], f"{case}: class token")
        scores = case["out/attn2_cls_to_tiles_mean_heads"]
        assert_near(out.tile_scores[:, 0], scores, f"{case}: scores")
        assert out.attention is None


def test_sizes_are_read_from_the_tensors(stored):
    for case, head in stored:
        wanted = {"dim": case.meta["dim"], "landmarks": case.meta["landmarks"], "heads": 8}
        assert {key: head.arguments[key] for key in wanted} == wanted
        attention = head.layers[0].attention
        assert attention.padding(case.meta["tokens"]) == case.meta["front_pad"]
        assert (head.in_features, head.num_classes) == (case.meta["n_in"], case.meta["n_classes"])


def test_attention_of_both_layers_equals_the_authors(stored):
    for case, head in stored:
        features = case.tensor("in/data")[0]
        matrices = head.attention_matrices(features)
        for i, rows in enumerate(head.attention_rows(features)):
            name = f"out/attn{i + 1}"
            assert_near(rows.class_token, case[f"{name}_cls_row_padded"], f"{case}: {name} class")
            assert_near(rows.first, case[f"{name}_row0_padded"], f"{case}: {name} row 0")
            tiles = rows.over_tiles(len(features))
            assert_near(tiles, case[f"{name}_cls_to_tiles_mean_heads"], f"{case}: {name} tiles")
            if f"{name}_full_padded" in case:
                assert_near(matrices[i], case[f"{name}_full_padded"], f"{case}: {name}")


def test_tokens_between_the_layers_equal_the_authors(stored):
    """All tokens of the last layer too, though the head itself takes but its class token."""
    for case, head in stored:
        features = case.tensor("in/data")[0]
        (first, entering), (last, encoded) = head.layer_inputs(features)
        steps = {
            "fc1": entering[1 : len(features) + 1],
            "layer1": first(entering),
            "ppeg": encoded,
            "layer2": last(encoded),
        }
        for name, tokens in steps.items():
            wanted = case[f"out/{name}"][0]
            assert_near(tokens[: len(wanted)], wanted, f"{case}: {name}")
        assert len(entering) == case.meta["tokens"]


def test_gradients_equal_the_authors(stored):
    """Repeated tiles give theirs to the originals."""
    for case, head in stored:
        features = case.tensor("in/data")[0].requires_grad_()
        logits = head(features).logits
        for c, wanted in enumerate(case["grad/logits_wrt_data"][:, 0]):
            (gradient,) = torch.autograd.grad(logits[c], features, retain_graph=True)
            assert_near(gradient, wanted, f"{case}: class {c}")


def test_double_precision_equals_its_twin(stored):
    for case, head in stored:
        logits = head.double()(case.tensor("in/data")[0].double()).logits.detach()
        np.testing.assert_allclose(logits, case["out64/logits"][0], rtol=1e-9, atol=1e-11)


def test_crops_are_different_heads(golden):
    case = cases(golden, "transmil")[0]
    one, other = (
        rebuild(LAYOUTS, case.state_dict, crop=crop)(case.tensor("in/data")[0]).logits
        for crop in ("front", "back")
    )
    assert float((one - other).detach().abs().max()) > 0.1


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 10])
@pytest.mark.parametrize("crop", ["front", "back"])
def test_any_bag_is_laid_on_the_smallest_square(n, crop):
    head, features = small(crop=crop), bag(n)
    out = head(features)
    _, tokens = next(head.layer_inputs(features))
    side = round((len(tokens) - 1) ** 0.5)
    assert (side - 1) ** 2 < n <= side**2 == len(tokens) - 1
    torch.testing.assert_close(tokens[n + 1 :], tokens[1 : side**2 - n + 1])
    assert out.tile_scores.shape == (n, 1)
    assert torch.isfinite(out.logits).all()


def test_the_attention_of_the_head_is_the_mean_row_of_its_matrix():
    head, features = small(), bag(6)
    matrix = head.attention_matrices(features)[-1].mean(0)
    class_token = len(matrix) - 10
    wanted = matrix[class_token, class_token + 1 : class_token + 7]
    torch.testing.assert_close(head(features).tile_scores[:, 0], wanted)


def test_large_matrices_are_refused_with_the_number(monkeypatch):
    monkeypatch.setattr("napari_wsi_xai.models.mil.transformer.MAX_MATRIX_TOKENS", 16)
    head = small()
    with pytest.raises(ModelError, match=r"17 tokens.*16"):
        head.attention_matrices(bag(14))
    assert len(head.attention_matrices(bag(9))) == 2


def test_dropout_acts_in_training_alone():
    head, features = small(dropout=0.5), bag()
    torch.testing.assert_close(head(features).logits, head(features).logits, rtol=0, atol=0)
    head.train()
    assert not torch.equal(head(features).logits, head(features).logits)


def test_every_parameter_learns():
    head = small().train()
    head(bag(30)).logits.pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_without_residual_convolution():
    head = small(residual_kernel=0)
    assert not any("residual" in name for name in head.state_dict())
    assert torch.isfinite(head(bag()).logits).all()


def test_bad_arguments():
    with pytest.raises(BadArgumentError, match="crop='middle'"):
        small(crop="middle")
    with pytest.raises(BadArgumentError, match=r"dim=18.*heads=8"):
        build_mil("transmil", 12, dim=18)

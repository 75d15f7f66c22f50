"""xMIL's TransMIL against reference numbers, plain attention written out, and TransMIL."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from golden_cases import assert_near, cases, rebuild
from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.models.checkpoints.layouts import transmil, xmil_transmil

LAYOUTS = xmil_transmil.LAYOUTS


def bag(n=7, d=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=draw, dtype=torch.float64)


def small(attention="dot_prod", n_layers=3, **arguments):
    torch.manual_seed(3)
    arguments = {"dim": 16, "heads": 4, "n_layers": n_layers, "attention": attention} | arguments
    return build_mil("xmil-transmil", 12, 3, **arguments).double()


@pytest.fixture
def stored(golden):
    """Cases of this head among those of xMIL; there may be none."""
    return [
        (case, rebuild(LAYOUTS, case.state_dict, attention=case.meta["kwargs"]["attention"]))
        for case in cases(golden, "xmil")
        if "cls_token" in case.state_dict
    ]


def xmil_names(authors):
    """TransMIL's tensors under xMIL's names."""
    both = {"layer1.": "translayers.0.", "layer2.": "translayers.1."}
    return {both.get(name[:7], name[:7]) + name[7:]: tensor for name, tensor in authors.items()}


def test_equals_the_authors(stored, golden):
    for case, head in stored:
        out = head(case.tensor("in/features"))
        assert_near(out.logits, case["out/logits"][0], f"{case}: logits")
        assert out.tile_scores.shape == (len(case["in/features"]), 1)
        assert head.arguments["n_layers"] == case.meta["kwargs"]["n_layers"]
    # Both codes' TransMIL are one function of the same tensors.
    same = [c for c in cases(golden, "transmil") if c.meta["nystrom_attention"] == "0.0.14"]
    for case in same:
        out = rebuild(LAYOUTS, xmil_names(case.state_dict))(case.tensor("in/data")[0])
        assert_near(out.logits, case["out/logits"][0], f"{case}: logits")
        scores = case["out/attn2_cls_to_tiles_mean_heads"]
        assert_near(out.tile_scores[:, 0], scores, f"{case}: scores")
    assert same


def test_attention_maps_equal_the_authors(stored):
    for case, head in stored:
        features = case.tensor("in/features")
        rows = head.attention_rows(features)
        pairs = {f"attention_layer{i}": rows[i].over_tiles(len(features)) for i in (0, 1)}
        pairs["attention/class0"] = head.attention_rollout(features)
        pairs["attention_rollout_max"] = head.attention_rollout(features, "max")
        pairs["attention_rollout_discard0.5"] = head.attention_rollout(features, discard=0.5)
        for name, value in pairs.items():
            if f"out/{name}" in case:
                assert_near(value, case[f"out/{name}"], f"{case}: {name}")
    assert {layout.architecture for layout in LAYOUTS} == {"xmil-transmil"}


def test_gradients_equal_the_authors(stored):
    """Gradient times input, and the squared gradient, of each class's logit."""
    for case, head in stored:
        features = case.tensor("in/features").requires_grad_()
        logits = head(features).logits
        for c in range(len(logits)):
            (gradient,) = torch.autograd.grad(logits[c], features, retain_graph=True)
            product = (gradient * features).sum(-1)
            assert_near(product, case[f"out/gi/class{c}"], f"{case}: product {c}")
            assert_near(gradient.pow(2).sum(-1), case[f"out/grad2/class{c}"], f"{case}: square {c}")
    assert xmil_transmil.LAYOUTS[0].source.startswith("bifold-pathomics")


def plain_forward(head, features):
    """Softmax attention, three convolutions and norms written out for all tokens."""
    tiles = torch.relu(head.embed(features))
    side = int(np.ceil(len(tiles) ** 0.5))
    x = torch.cat([head.class_token[0], tiles, tiles[: side**2 - len(tiles)]])
    row = None
    for i, layer in enumerate(head.layers):
        y, attention = layer.norm(x), layer.attention
        q, k, v = (
            part.unflatten(1, (4, 4)).transpose(0, 1) for part in attention.qkv(y).chunk(3, 1)
        )
        weights = torch.softmax(torch.einsum("hid,hjd->hij", q, k) / 2, -1)
        mixed = weights @ v + attention.residual(v[None])[0]
        x = x + attention.out(mixed.transpose(0, 1).flatten(1))
        row = weights[:, 0].mean(0)[1 : len(tiles) + 1]
        if i == 0:
            square = x[1:].T.reshape(1, 16, side, side)
            parts = [conv(square) for conv in (head.position.conv7, head.position.conv5)]
            square = square + sum(parts) + head.position.conv3(square)
            x = torch.cat([x[:1], square[0].flatten(1).T])
    return head.classifier(F.layer_norm(x[0], (16,), head.norm.weight, head.norm.bias)), row


@pytest.mark.parametrize("n", [1, 2, 3, 7, 12])
def test_plain_attention_written_out(n):
    head, features = small(), bag(n).requires_grad_()
    out = head(features)
    logits, row = plain_forward(head, features)
    torch.testing.assert_close(out.logits, logits)
    torch.testing.assert_close(out.tile_scores[:, 0], row)
    for one, other in zip(out.logits, logits, strict=True):
        got, wanted = (torch.autograd.grad(z, features, retain_graph=True) for z in (one, other))
        torch.testing.assert_close(got, wanted)


def plain_rollout(head, features, fuse, discard):
    """The product of the layers' matrices, entry by entry where it differs from the usual."""
    result = None
    for heads in head.attention_matrices(features):
        fused = fuse(heads)
        entries = sorted(fused.flatten().tolist())[: int(discard * fused.numel())]
        kept = fused > (entries[-1] if entries else -np.inf)
        kept[0, 0] = True
        a = (fused * kept + torch.eye(len(fused)).double()) / 2
        sums = a.sum(1)
        a = torch.stack([a[:, j] / sums[j] for j in range(len(a))], dim=1)
        result = a if result is None else a @ result
    side = int(np.ceil(len(features) ** 0.5))
    class_token = len(result) - side**2 - 1
    return result[class_token, class_token + 1 : class_token + 1 + len(features)]


@pytest.mark.parametrize("kind", ["nystrom", "dot_prod"])
@pytest.mark.parametrize("discard", [0.0, 0.5])
def test_rollout_written_out(kind, discard):
    # Two landmarks divide the ten tokens: equal rows of padding would leave open which to drop.
    head, features = small(kind, dim=4, heads=2), bag(9)
    fusions = {
        "mean": lambda heads: heads.mean(0),
        "max": lambda heads: heads.max(0).values,
        "min": lambda heads: heads.min(0).values,
    }
    for name, fuse in fusions.items():
        wanted = plain_rollout(head, features, fuse, discard)
        torch.testing.assert_close(head.attention_rollout(features, name, discard), wanted)


@pytest.mark.parametrize("kind", ["nystrom", "dot_prod"])
def test_rollout_of_a_bag_too_large_for_matrices(kind, monkeypatch):
    head, features = small(kind), bag(9)
    wanted = head.attention_rollout(features)
    monkeypatch.setattr("napari_wsi_xai.models.mil.transformer.MAX_MATRIX_TOKENS", 0)
    torch.testing.assert_close(head.attention_rollout(features), wanted)


def test_layers_without_residual_convolution_are_recognised():
    """Nothing tells the heads then: they are asked for or 8."""
    wide = small(heads=2, residual_kernel=0)
    theirs = {**transmil.COMMON_NAMES, **transmil.layer_names("translayers.*", "layers.*")}
    ours = {name: tensor.float() for name, tensor in wide.state_dict().items()}
    tensors = {
        theirs_name.replace("*", str(i)): ours[ours_name.replace("*", str(i))]
        for theirs_name, ours_name in theirs.items()
        for i in range(3)
        if ours_name.replace("*", str(i)) in ours
    }
    head = rebuild(LAYOUTS, tensors, attention="dot_prod", heads=2)
    assert (head.arguments["n_layers"], head.arguments["residual_kernel"]) == (3, 0)
    torch.testing.assert_close(head(bag().float()).logits.double(), wide(bag()).logits)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"n_layers": 1}, "n_layers=1"), ({"attention": "linear"}, "attention='linear'")],
)
def test_bad_arguments(arguments, named):
    with pytest.raises(BadArgumentError, match=named):
        small(**arguments)
    with pytest.raises(BadArgumentError, match="fusion='sum'"):
        small().attention_rollout(bag(), "sum")
    with pytest.raises(BadArgumentError, match=r"discard=1\.0"):
        small().attention_rollout(bag(), discard=1.0)


def test_discarded_shares_are_numbers():
    with pytest.raises(BadArgumentError, match="discard='a' must be at least 0 and below 1"):
        build_mil("xmil-transmil", 12, dim=16).attention_rollout(torch.zeros(4, 12), "max", "a")

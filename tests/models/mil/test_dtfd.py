"""DTFD-MIL against plain loops and its own promises."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden_cases import rebuild
from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.models.checkpoints.layouts.dtfd import LAYOUTS
from napari_wsi_xai.models.mil.dtfd import DISTILLATIONS


def bag(n=11, d=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=draw, dtype=torch.float64)


def small(classes=3, **arguments):
    torch.manual_seed(3)
    return build_mil("dtfd", 12, classes, hidden=6, attention=5, **arguments).double()


def gated(attention, h):
    return attention.w(torch.tanh(attention.V(h)) * torch.sigmoid(attention.U(h)))[0]


def softmax(values):
    powers = torch.stack(list(values)).exp()
    return powers / powers.sum()


def loop(head, features):
    """Both tiers tile by tile: logits, weight of every tile, logits of the pseudo-bags."""
    h = [torch.relu(head.reduce.weight @ d) for d in features]
    for block in head.residual_blocks:
        h = [x + torch.relu(block.second(torch.relu(block.first(x)))) for x in h]
    distilled, origins, first_tier = [], [], []
    for rows in head.pseudo_bags(len(h)):
        rows = rows.tolist()
        a = softmax(gated(head.tile_attention, h[j]) for j in rows)
        attended = [a_j * h[j] for a_j, j in zip(a, rows, strict=True)]
        first_tier.append(head.pseudo_bag_classifier(sum(attended)))
        if head.distillation == "afs":
            distilled.append(sum(attended))
            origins.append(dict(zip(rows, a, strict=True)))
            continue
        positive = [
            torch.softmax(head.pseudo_bag_classifier.weight @ x, 0)[-1].item() for x in attended
        ]
        order = sorted(range(len(rows)), key=lambda i, p=positive: -p[i])
        taken = order[: head.per_group]
        if head.distillation == "maxmins":
            taken = taken + order[-head.per_group :]
        for i in taken:
            distilled.append(h[rows[i]])
            origins.append({rows[i]: 1.0})
    b = softmax(gated(head.distilled_attention, e) for e in distilled)
    weights = torch.zeros(len(h)).double()
    for b_r, origin in zip(b, origins, strict=True):
        for j, share in origin.items():
            weights[j] += (b_r * share).detach()
    descriptor = sum(b_r * e for b_r, e in zip(b, distilled, strict=True))
    return head.classifier(descriptor), weights, torch.stack(first_tier)


@pytest.mark.parametrize("distillation", DISTILLATIONS)
@pytest.mark.parametrize("n", [1, 2, 3, 11, 40])
@pytest.mark.parametrize("more", [{}, {"groups": 3, "per_group": 2, "residual_blocks": 2}])
def test_tiers_written_out(distillation, n, more):
    head, features = small(distillation=distillation, **more), bag(n).requires_grad_()
    out = head(features)
    logits, weights, first_tier = loop(head, features)
    torch.testing.assert_close(out.logits, logits)
    torch.testing.assert_close(out.attention[:, 0], weights)
    torch.testing.assert_close(head.pseudo_bag_logits(features), first_tier)
    got, wanted = (torch.autograd.grad(z[-1], features) for z in (out.logits, logits))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("distillation", DISTILLATIONS)
def test_attention_weighs_the_slide_descriptor(distillation):
    head, features = small(distillation=distillation), bag(30)
    out = head(features)
    torch.testing.assert_close(float(out.attention.detach().sum()), 1.0)
    torch.testing.assert_close(out.attention[:, 0] @ head.project(features), out.slide_descriptor)
    distilled = {"afs": 30, "maxs": 4, "maxmins": 8}[distillation]
    assert int((out.attention > 0).sum()) == distilled


def test_one_pseudo_bag_is_gated_attention():
    """The second tier has one descriptor to weigh then."""
    head, features = small(groups=1), bag()
    h = head.project(features)
    attention = torch.softmax(head.tile_attention(h), 0)
    torch.testing.assert_close(head(features).slide_descriptor, (attention * h).sum(0))


@given(st.integers(1, 200), st.integers(1, 9), st.integers(0, 99))
def test_pseudo_bags_share_out_the_tiles_evenly(n, groups, seed):
    bags = small(groups=groups, seed=seed).pseudo_bags(n)
    assert sorted(torch.cat(bags).tolist()) == list(range(n))
    sizes = {len(rows) for rows in bags}
    assert len(bags) == min(groups, n)
    assert max(sizes) - min(sizes) <= 1


def test_pseudo_bags_repeat_but_not_in_training():
    head = small()
    again = [torch.cat(head.pseudo_bags(200)).tolist() for _ in range(2)]
    assert again[0] == again[1]
    assert again[0] != torch.cat(small(seed=1).pseudo_bags(200)).tolist()
    head.train()
    drawn = [torch.cat(head.pseudo_bags(200)).tolist() for _ in range(2)]
    assert drawn[0] != drawn[1]


def test_tiles_are_told_apart_where_their_probability_is_rounded():
    """In a large pseudo-bag every tile's share is tiny and all probabilities round to 1 / C."""
    head = small(2, distillation="maxs", groups=1).float()
    with torch.no_grad():
        head.tile_attention.w.weight.zero_()
        head.pseudo_bag_classifier.weight.copy_(torch.eye(6)[:2])
        head.reduce.weight.copy_(torch.eye(6, 12))
    features = torch.zeros(50_000, 12)
    features[:, 1] = 1e-3
    features[777, 1] = 1.1e-3
    assert int(head(features).attention[:, 0].argmax()) == 777


def test_one_logit_orders_tiles_by_itself():
    head = small(2, single_logit=True, distillation="maxs", groups=1)
    features = bag()
    h = head.project(features)
    a = torch.softmax(head.tile_attention(h)[:, 0], 0)
    best = int((a * (h @ head.pseudo_bag_classifier.weight[0])).argmax())
    assert int(head(features).attention[:, 0].argmax()) == best


def flat(checkpoint):
    return {
        f"{part}.{name}": tensor
        for part, tensors in checkpoint.items()
        for name, tensor in tensors.items()
    }


def test_the_published_checkpoint_runs(shared_data):
    path = shared_data / "weights" / "dtfd_model.pth"
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    head = rebuild(LAYOUTS, flat(checkpoint)).double()
    assert {key: head.arguments[key] for key in ("hidden", "attention", "residual_blocks")} == {
        "hidden": 512,
        "attention": 128,
        "residual_blocks": 0,
    }
    features = bag(20, 1024)
    out = head(features)
    logits, weights, _ = loop(head, features)
    torch.testing.assert_close(out.logits, logits)
    torch.testing.assert_close(out.attention[:, 0], weights)
    attention = checkpoint["attention"]
    v, u = (features.float() @ checkpoint["dim_reduction"]["fc1.weight"].T for _ in range(2))
    v = torch.tanh(v.relu() @ attention["attention_V.0.weight"].T + attention["attention_V.0.bias"])
    u = u.relu() @ attention["attention_U.0.weight"].T + attention["attention_U.0.bias"]
    raw = (v * u.sigmoid()) @ attention["attention_weights.weight"].T
    raw = raw + attention["attention_weights.bias"]
    torch.testing.assert_close(out.tile_scores.float(), raw, rtol=1e-4, atol=1e-5)


def test_residual_blocks_are_read_from_the_tensors(shared_data):
    path = shared_data / "weights" / "dtfd_model.pth"
    tensors = flat(torch.load(path, map_location="cpu", weights_only=True))
    weights = [torch.randn(512, 512) / 20 for _ in range(4)]
    for i, (block, layer) in enumerate([(0, 0), (0, 2), (1, 0), (1, 2)]):
        tensors[f"dim_reduction.resBlocks.{block}.block.{layer}.weight"] = weights[i]
    head = rebuild(LAYOUTS, tensors)
    features = bag(3, 1024).float()
    h = (features @ tensors["dim_reduction.fc1.weight"].T).relu()
    h = h + (torch.relu(h @ weights[0].T) @ weights[1].T).relu()
    h = h + (torch.relu(h @ weights[2].T) @ weights[3].T).relu()
    torch.testing.assert_close(head.project(features), h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"groups": 0}, "groups=0"),
        ({"per_group": 0}, "per_group=0"),
        ({"hidden": 0}, "hidden=0"),
        ({"residual_blocks": -1}, "residual_blocks=-1"),
        ({"distillation": "mean"}, "distillation='mean'"),
    ],
)
def test_bad_arguments(arguments, named):
    with pytest.raises(BadArgumentError, match=named):
        build_mil("dtfd", 12, **arguments)


def test_seeds_beyond_64_bits():
    with pytest.raises(BadArgumentError, match=rf"seed={2**70} must be below"):
        build_mil("dtfd", 12, seed=2**70)

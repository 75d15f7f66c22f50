"""ZoomMIL against reference numbers and its own promises."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from golden_cases import assert_near, cases
from napari_wsi_xai.errors import BadArgumentError, ModelError
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.models.mil.zoommil import ZoomLevel, ZoomMIL, ZoomOutput
from zoom_bags import LAYOUT, NAMES, bags_of, check_levels, head_of, nested, restrict, small


def test_evaluation_equals_the_authors(golden):
    checked = 0
    for case in cases(golden, "zoommil", "zoommil_*.npz"):
        if "in/noise1" not in case:
            check_evaluation(case)
            checked += 1
    assert checked


def check_evaluation(case):
    head, bags = head_of(case), bags_of(case)
    out = head(bags)
    assert_near(out.logits, case["out/logits"][0], case.name)
    assert_near(head.probabilities(out.logits), case["out/Y_prob"][0])
    assert_near(out.slide_descriptor, case["out/M"][0])
    check_levels(case, out.levels)
    low, mid, high = out.levels
    assert low.opened.tolist() == case["out/select1_low_idx"].tolist()
    assert mid.looked.tolist() == case["out/mid_idx_global"].tolist()
    assert mid.opened.tolist() == case["out/select2_mid_idx_global"].tolist()
    assert high.looked.tolist() == case["out/high_idx_global"].tolist()
    assert low.looked.tolist() == list(range(len(bags[0])))
    assert high.opened.tolist() == []
    for level, (name, seen) in enumerate(zip(NAMES, out.levels, strict=True)):
        projected = head.projections[level](bags[level][seen.looked])
        assert_near(projected, case[f"out/feat/fc_{name}"][0], name)
    parts = restrict(head, bags)
    assert head.open_tiles(1, parts[1]).tolist() == case["out/select2_local_idx"].tolist()
    for c in range(len(out.logits)):
        gradients = torch.autograd.grad(out.logits[c], bags, retain_graph=True)
        for n, gradient in enumerate(gradients, 1):
            assert_near(gradient, case[f"grad/logits_wrt_x{n}"][c], f"{case.name} x{n}")


@given(
    st.integers(1, 9),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 12),
    st.integers(0, 99),
)
def test_opened_tiles_alone_give_the_same(coarse, factors, k, seed):
    head = small(k, len(factors) + 1)
    bags = nested(coarse, factors, seed=seed)
    whole, part = head(bags), head.forward_opened(restrict(head, bags))
    assert torch.equal(whole.logits, part.logits)
    assert torch.equal(whole.slide_descriptor, part.slide_descriptor)
    below = None
    for level, (one, other) in enumerate(zip(whole.levels, part.levels, strict=True)):
        assert torch.equal(one.tile_scores, other.tile_scores)
        assert torch.equal(one.attention, other.attention)
        assert other.looked.tolist() == list(range(len(one.looked)))
        assert one.looked[other.opened].tolist() == one.opened.tolist()
        if below is not None:
            factor = factors[level - 1]
            rows = [n * factor + c for n in below.tolist() for c in range(factor)]
            assert one.looked.tolist() == rows
        if level < len(factors):
            assert len(one.opened) == min(k, len(one.looked))
            assert one.opened.tolist() == sorted(one.opened.tolist())
        below = one.opened


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 99))
def test_maps_have_a_column_a_magnification(coarse, k, seed):
    head = small(k)
    bags = nested(coarse, (3, 2), seed=seed)
    out = head(bags)
    assert isinstance(out, ZoomOutput)
    assert isinstance(out.levels[0], ZoomLevel)
    assert out.tile_scores.shape == out.attention.shape == (coarse * (1 + 3 + 6), 3)
    torch.testing.assert_close(out.attention.sum(0), torch.ones(3))
    start = 0
    for column, (bag, seen) in enumerate(zip(bags, out.levels, strict=True)):
        rows = start + seen.looked
        known = (~torch.isnan(out.tile_scores[:, column])).nonzero()[:, 0]
        assert known.tolist() == rows.tolist()
        assert torch.equal(out.tile_scores[rows, column], seen.tile_scores[:, 0])
        assert torch.equal(out.attention[rows, column], seen.attention[:, 0])
        others = torch.ones(len(out.attention), dtype=torch.bool)
        others[rows] = False
        assert not out.attention[others, column].any()
        start += len(bag)


def test_the_auxiliary_attention_alone_opens():
    head, bags = small(2), nested()
    before = head(bags)
    top = before.levels[0].selection[:, 0].topk(2).indices
    assert before.levels[0].opened.tolist() == sorted(top.tolist())
    with torch.no_grad():
        head.attentions[0].w.weight.neg_()
    main_turned = head(bags)
    assert main_turned.levels[0].opened.tolist() == before.levels[0].opened.tolist()
    torch.testing.assert_close(main_turned.levels[0].selection, before.levels[0].selection)
    assert not torch.allclose(main_turned.levels[0].attention, before.levels[0].attention)
    with torch.no_grad():
        head.selections[0].w.weight.neg_()
    turned = head(bags)
    bottom = before.levels[0].selection[:, 0].topk(2, largest=False).indices
    assert turned.levels[0].opened.tolist() == sorted(bottom.tolist())


def test_scores_far_apart_are_still_told_apart():
    """Their softmax underflows to 0 for all but one tile; the logits still have an order."""
    head, bags = small(3), nested(6)
    with torch.no_grad():
        head.selections[0].w.weight.mul_(1e5)
    seen = head(bags).levels[0]
    assert int((seen.selection > 0).sum()) < 3
    raw = head.selections[0](head.projections[0](bags[0]))[:, 0]
    assert seen.opened.tolist() == sorted(raw.topk(3).indices.tolist())


def test_of_equal_tiles_the_first_are_opened():
    head, bags = small(3), nested(6)
    bags[0] = bags[0][:1].repeat(6, 1)
    assert head.open_tiles(0, bags[0]).tolist() == [0, 1, 2]
    assert head(bags).levels[0].opened.tolist() == [0, 1, 2]


@given(st.integers(2, 8), st.integers(0, 99))
def test_order_of_coarse_tiles_does_not_matter(coarse, seed):
    head, bags = small(2), nested(coarse, (3, 2), seed=seed)
    order = torch.randperm(coarse, generator=torch.Generator().manual_seed(seed))
    moved = [bag.reshape(coarse, -1, 12)[order].reshape(-1, 12) for bag in bags]
    one, other = head(bags), head(moved)
    torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-5)
    assert sorted(order[other.levels[0].opened].tolist()) == one.levels[0].opened.tolist()


@pytest.mark.parametrize("single", [False, True])
def test_four_blocks_in_a_row_are_forward(single):
    head, bags = small(single_logit=single), nested()
    out = head(bags)
    scores = head.score_tiles(bags)
    torch.testing.assert_close(scores, out.tile_scores, equal_nan=True)
    descriptor, attention = head.aggregate(scores, bags)
    torch.testing.assert_close(attention, out.attention)
    torch.testing.assert_close(descriptor, out.slide_descriptor)
    torch.testing.assert_close(head.decide(descriptor), out.logits)
    assert out.logits.shape == (1 if single else 2,)
    assert float(head.probabilities(out.logits).detach().sum()) == pytest.approx(1)
    assert (head.magnification_use, head.num_magnifications) == ("zoom", 3)


def test_arguments_rebuild_the_head():
    head, bags = small(2, 3, 4, dropout=0.25, k_sigma=0.1), nested()
    again = build_mil("zoommil", **json.loads(json.dumps(head.arguments)))
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(bags).logits, head(bags).logits)
    assert again.arguments == head.arguments
    assert (again.k_sample, again.k_sigma) == (2, 0.1)


def test_float16_descriptors_give_nearly_the_same():
    head, bags = small(20), nested()
    half = head([bag.half() for bag in bags]).logits
    torch.testing.assert_close(half, head(bags).logits, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:2], r"2 bag\(s\).*3"),
        (lambda b: b[0], r"1 bag\(s\).*3"),
        (lambda b: [b[0], b[1][:0], b[2]], "magnification 2 of 3.*0 tiles"),
        (lambda b: [b[0][:0], b[1], b[2]], "magnification 1 of 3.*0 tiles"),
        (lambda b: [b[0], b[1][:, :5], b[2]], r"magnification 2 of 3.*\(28, 5\).*12"),
        (lambda b: [b[0], b[1][:-1], b[2]], "27 tiles of magnification 2.*7 tiles of magn"),
        (lambda b: [b[0], b[1], b[2][:-1]], "111 tiles of magnification 3.*28 tiles of magn"),
        (lambda b: [b[0], b[1], b[2] * torch.nan], "magnification 3 of 3.*112 of 112"),
    ],
)
def test_bad_bags_name_magnification_and_numbers(change, message):
    with pytest.raises(ModelError, match=message):
        small()(change(nested()))


def test_children_that_could_not_be_read_are_left_out():
    """Softmax and sum run over the tiles there are; nothing is put in place of the others."""
    head, bags = small(3), nested()
    parts = restrict(head, bags)
    parts[2] = parts[2][[0, 1, 3, 5, 6]]
    whole = head.forward_opened(parts)
    finest = head.projections[2](parts[2])
    weights = torch.softmax(head.attentions[2](finest), dim=0)
    torch.testing.assert_close(whole.levels[2].attention, weights)
    others = sum(
        level.attention[:, 0] @ head.projections[m](parts[m])
        for m, level in enumerate(whole.levels[:2])
    )
    descriptor = others + weights[:, 0] @ finest
    torch.testing.assert_close(whole.slide_descriptor, descriptor)
    torch.testing.assert_close(whole.logits, head.classifier(descriptor))


def test_one_magnification_alone_tells_what_it_tells_among_all():
    head, bags = small(3), nested()
    parts = restrict(head, bags)
    for level, (bag, among) in enumerate(
        zip(parts, head.forward_opened(parts).levels, strict=True)
    ):
        alone = head.look(level, bag)
        torch.testing.assert_close(alone.attention, among.attention)
        assert torch.equal(alone.opened, among.opened)
        assert (alone.selection is None) == (level == 2)


def test_bad_opened_bags_name_the_numbers():
    head, bags = small(3), nested()
    parts = restrict(head, bags)
    with pytest.raises(ModelError, match=r"magnification 2 of 3.*0 tiles"):
        head.forward_opened([parts[0], parts[1][:0], parts[2]])
    with pytest.raises(ModelError, match=r"magnification 2 of 3.*0 tiles"):
        head.open_tiles(1, bags[1][:0])
    for level in (-1, 2):
        with pytest.raises(BadArgumentError, match=f"level={level}.*0 to 1"):
            head.open_tiles(level, bags[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_magnifications", 1),
        ("k_sample", 0),
        ("k_sigma", 0.0),
        ("hidden", 0),
        ("out_features", 0),
    ],
)
def test_bad_arguments_name_the_value(name, value):
    with pytest.raises(BadArgumentError, match=f"{name}={value}"):
        ZoomMIL(12, 2, **{name: value})


def test_the_layout_tells_everything_but_k(golden):
    case = cases(golden, "zoommil", "zoommil_*.npz")[0]
    made = case.meta["kwargs"]
    assert LAYOUT.arguments(case.state_dict) == {
        "in_features": made["in_feat_dim"],
        "num_classes": made["n_cls"],
        "single_logit": False,
        "hidden": made["hidden_feat_dim"],
        "out_features": made["out_feat_dim"],
        "num_magnifications": 3,
    }
    assert set(LAYOUT.names) == set(case.state_dict)
    assert set(LAYOUT.names.values()) == set(head_of(case).state_dict())


@pytest.mark.parametrize("level", [-1, 3, 5])
def test_there_is_nothing_to_look_at_beyond_the_magnifications(level):
    head = build_mil("zoommil", 12)
    with pytest.raises(BadArgumentError, match=rf"level={level} .* from 0 to 2"):
        head.look(level, torch.zeros(4, 12))

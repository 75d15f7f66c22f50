"""SparseConvMIL against reference numbers and against a convolution of the whole grid."""

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import conv2d

from golden_cases import assert_near, cases
from napari_wsi_xai.errors import BadArgumentError, ModelError
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.models.checkpoints.layouts.sparseconvmil import LAYOUTS
from napari_wsi_xai.models.mil.sparse_sites import neighbour_pairs, occupied_sites

(LAYOUT,) = LAYOUTS


def small(classes=2, downsample=1.0, **arguments):
    torch.manual_seed(3)
    sizes = {"channels": (7, 5), "hidden": (6,), "downsample": downsample} | arguments
    head = build_mil("sparseconvmil", 12, classes, **sizes)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return head


def bag(n, seed=0):
    return torch.randn(n, 12, generator=torch.Generator().manual_seed(seed))


def dense(head, features, yx, downsample):
    """The same by conv2d over the whole grid, empty sites zero: logits and scores (N, channels)."""
    sites = [(int(x // downsample), int(y // downsample)) for y, x in yx.tolist()]
    left, top = (min(axis) for axis in zip(*sites, strict=True))
    height, width = (max(axis) + 1 for axis in zip(*sites, strict=True))
    grid = torch.zeros(features.shape[1], height - left, width - top, dtype=features.dtype)
    mask = torch.zeros(height - left, width - top, dtype=features.dtype)
    for row, (x, y) in zip(features, sites, strict=True):
        grid[:, x - left, y - top] += row / sites.count((x, y))
        mask[x - left, y - top] = 1
    for layer in head.convolutions[::2]:
        k, (_, before, after) = layer.kernel, layer.weight.shape
        weight = layer.weight.reshape(k, k, before, after).permute(3, 2, 0, 1)
        grid = torch.relu(conv2d(grid[None], weight, layer.bias, padding=k // 2)[0]) * mask
    embedding = grid.sum((1, 2)) / mask.sum()
    scores = torch.stack([grid[:, x - left, y - top] for x, y in sites])
    return head.classifier(embedding), scores


def head_of(case, **options):
    head = build_mil(LAYOUT.architecture, **LAYOUT.arguments(case.state_dict), **options)
    head.load_state_dict(LAYOUT.rename(case.state_dict))
    return head


def test_equals_the_authors_on_their_sites(golden):
    """Their last integer sites, whatever moved the tiles there, taken as coordinates."""
    for case in cases(golden, "sparseconvmil"):
        placed = case.tensor("out/final_locations_xyb")
        for slide in range(len(case["in/x"])):
            xy = placed[placed[:, 2] == slide][:, :2]
            check_slide(case, slide, xy.flip(1), head_of(case, downsample=1.0))


def test_equals_the_authors_from_coordinates(golden):
    """Where coordinates are whole multiples of the downsample, no translation changes sites."""
    checked = 0
    for case in cases(golden, "sparseconvmil", "*grid_aligned*.npz"):
        for slide, locations in enumerate(case.tensor("in/locations")):
            head = head_of(case, downsample=10.0)
            check_slide(case, slide, locations.flip(1), head)
            moved = head_of(case, downsample=10.0, translation=(3.0, -2.0))
            check_slide(case, slide, locations.flip(1), moved)
            checked += 1
    assert checked


def check_slide(case, slide, yx, head):
    features = case.tensor("in/x")[slide].requires_grad_()
    out = head(features, yx)
    assert_near(out.logits, case["out/logits"][slide], case.name)
    assert_near(out.slide_descriptor, case["out/wsi_embedding"][slide], case.name)
    for c in range(len(out.logits)):
        (gradient,) = torch.autograd.grad(out.logits[c], features, retain_graph=True)
        assert_near(gradient, case["grad/logits_wrt_x"][slide, c], case.name)
    sites = head.sites(yx, len(features))
    placed = case["out/final_locations_xyb"]
    ours = sites.places[sites.of_tile]
    assert ours.tolist() == placed[placed[:, 2] == slide][:, :2].tolist()
    for layer, activations in enumerate(head.site_activations(features, sites)):
        theirs = case.tensor(f"out/sparse{layer}/locations_xyb")
        rows = {tuple(xyb): row for row, xyb in enumerate(theirs.tolist())}
        order = [rows[x, y, slide] for x, y in sites.places.tolist()]
        assert len(order) == int((theirs[:, 2] == slide).sum())
        assert_near(activations, case[f"out/sparse{layer}/features"][order], f"sparse{layer}")
    assert_near(out.tile_scores, activations[sites.of_tile])


PLACES = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=40)


@given(PLACES, st.sampled_from([(3, 3), (1, 5), (5, 3)]), st.sampled_from([1.0, 2.5]))
def test_equals_a_dense_convolution(places, kernels, downsample):
    """Duplicates, lonely sites and bags of one tile among them."""
    head = small(downsample=downsample, kernels=kernels).double()
    features = bag(len(places)).double().requires_grad_()
    yx = torch.tensor(places)
    out = head(features, yx)
    logits, scores = dense(head, features, yx, downsample)
    torch.testing.assert_close(out.logits, logits)
    torch.testing.assert_close(out.tile_scores, scores)
    leaves = [features, *head.parameters()]
    for one, other in zip(
        torch.autograd.grad(out.logits[0], leaves),
        torch.autograd.grad(logits[0], leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@given(PLACES, st.integers(0, 99))
def test_order_of_tiles_and_whole_steps_do_not_matter(places, seed):
    head, features, yx = small(downsample=2.0), bag(len(places)), torch.tensor(places)
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
    one, other = head(features, yx), head(features[order], yx[order] + torch.tensor([40, -6]))
    torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.tile_scores[order], other.tile_scores, rtol=1e-4, atol=1e-5)
    assert one.tile_scores.shape == (len(places), 5)
    assert one.attention is None


@given(PLACES, st.sampled_from([1, 3, 5]))
def test_neighbours_are_those_that_a_search_finds(places, kernel):
    sites = occupied_sites(torch.tensor(places), 1.0)
    known = {tuple(place): n for n, place in enumerate(sites.places.tolist())}
    reach, pairs = kernel // 2, neighbour_pairs(sites, kernel)
    steps = [(x, y) for x in range(-reach, reach + 1) for y in range(-reach, reach + 1)]
    for (dx, dy), (here, there) in zip(steps, pairs, strict=True):
        found = {(n, known.get((x + dx, y + dy))) for (x, y), n in known.items()}
        assert set(zip(here.tolist(), there.tolist(), strict=True)) == {
            pair for pair in found if pair[1] is not None
        }
    assert sites.counts.tolist() == [
        sum((x - least[1], y - least[0]) == place for y, x in places)
        for least in [[min(axis) for axis in zip(*places, strict=True)]]
        for place in known
    ]


def test_axes_are_not_exchanged():
    """The kernel's slow axis is x: a weight at (x + 1, y) alone moves values along x alone."""
    head = small(channels=(12,), kernels=(3,), hidden=())
    (layer, _) = head.convolutions
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight[2 * 3 + 1] = torch.eye(12)
    features = bag(3).abs()
    right = head(features, torch.tensor([[5, 5], [5, 6], [6, 5]])).tile_scores
    torch.testing.assert_close(right[0], features[1])
    assert not right[1:].any()


def test_rounding_is_down_and_with_a_translation_towards_zero():
    yx = torch.tensor([[0, -19], [0, -1], [0, 1], [0, 11]])
    assert occupied_sites(yx, 10.0).places[:, 0].tolist() == [0, 1, 2, 3]
    moved = occupied_sites(yx, 10.0, (1.0, 0.0))
    assert moved.places[moved.of_tile, 0].tolist() == [0, 1, 2, 2]


def test_tiles_far_apart_do_not_blow_up_the_grid():
    head = small()
    yx = torch.tensor([[0, 0], [10**9, 0], [0, 10**9], [10**9, 10**9]])
    features = bag(4)
    out = head(features, yx)
    alone = torch.cat([head(features[n : n + 1], yx[n : n + 1]).tile_scores for n in range(4)])
    torch.testing.assert_close(out.tile_scores, alone)


@pytest.mark.parametrize("single", [False, True])
def test_four_blocks_in_a_row_are_forward(single):
    head, features = small(single_logit=single), bag(9)
    yx = torch.tensor([[n // 3, n % 3] for n in range(8)] + [[0, 0]])
    out = head(features, yx)
    scores = head.score_tiles(features, yx)
    descriptor, attention = head.aggregate(scores, None, yx)
    torch.testing.assert_close(head.decide(descriptor), out.logits)
    sites = scores[:8].mean(0)  # The last tile shares the first one's site.
    torch.testing.assert_close(descriptor, sites)
    assert attention is None
    assert out.logits.shape == (1 if single else 2,)
    assert float(head.probabilities(out.logits).detach().sum()) == pytest.approx(1)


def test_arguments_rebuild_the_head():
    head = small(3, downsample=2.5, kernels=(5, 1), translation=(1, 0))
    again = build_mil("sparseconvmil", **json.loads(json.dumps(head.arguments)))
    again.load_state_dict(head.state_dict())
    yx = torch.tensor([[0, 0], [0, 3], [4, -7]])
    assert torch.equal(again(bag(3), yx).logits, head(bag(3), yx).logits)
    assert again.arguments == head.arguments


def test_float16_descriptors_give_nearly_the_same():
    head, yx = small(), torch.tensor([[n // 5, n % 5] for n in range(20)])
    half = head(bag(20).half(), yx).logits
    torch.testing.assert_close(half, head(bag(20), yx).logits, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("features", "coords", "message"),
    [
        (bag(4), None, "coords_level0"),
        (bag(4), torch.zeros(3, 2), r"\(3, 2\).*4 tiles"),
        (bag(4), torch.zeros(4, 3), r"\(4, 3\).*4 tiles"),
        (bag(4), torch.full((4, 2), torch.nan), "not finite"),
        (bag(4)[:0], torch.zeros(0, 2), "0 tiles"),
        (bag(4)[:, :5], torch.zeros(4, 2), r"\(4, 5\).*12"),
        (bag(4) * torch.nan, torch.zeros(4, 2), "4 of 4"),
    ],
)
def test_bad_bags_name_the_numbers(features, coords, message):
    with pytest.raises(ModelError, match=message):
        small()(features, coords)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernels": (3, 2)}, r"kernels=\[3, 2\]"),
        ({"kernels": (3,)}, r"kernels=\[3\]"),
        ({"channels": (), "kernels": ()}, r"channels=\[\]"),
        ({"channels": (4, 0)}, r"channels=\[4, 0\]"),
        ({"hidden": (0,)}, r"hidden=\[0\]"),
        ({"downsample": 0}, "downsample=0"),
        ({"translation": (1,)}, r"translation=\[1.0\]"),
    ],
)
def test_bad_arguments_name_the_value(arguments, message):
    with pytest.raises(BadArgumentError, match=message):
        small(**arguments)


def test_the_layout_tells_sizes_from_shapes(golden):
    case = cases(golden, "sparseconvmil")[0]
    assert LAYOUT.arguments(case.state_dict) == {
        "in_features": 16,
        "num_classes": 2,
        "single_logit": False,
        "channels": [8, 6],
        "kernels": [3, 3],
        "hidden": [8],
    }
    assert LAYOUT.ignores("tile_embedder.layer1.0.conv1.weight")
    assert all(LAYOUT.template_of(name) for name in case.state_dict)


def test_the_layout_orders_layers_by_number():
    """Ten layers and more, other windows, one logit."""
    names = {f"sparse_cnn.{2 * n}": (k * k, 1, n + 4, n + 5) for n, k in enumerate([1, 3, 5] * 2)}
    state = {f"{name}.weight": torch.randn(shape) for name, shape in names.items()}
    state |= {f"{name}.bias": torch.randn(shape[-1]) for name, shape in names.items()}
    state |= {f"wsi_embedding_classifier.0.{k}": torch.randn(s) for k, s in LINEAR.items()}
    made = LAYOUT.arguments(state)
    assert made["kernels"] == [1, 3, 5, 1, 3, 5]
    assert made["channels"] == [5, 6, 7, 8, 9, 10]
    assert (made["single_logit"], made["num_classes"], made["hidden"]) == (True, 2, [])
    head = build_mil("sparseconvmil", **made)
    head.load_state_dict(LAYOUT.rename(state))
    assert torch.equal(head.convolutions[10].weight, state["sparse_cnn.10.weight"][:, 0])


LINEAR = {"weight": (1, 10), "bias": (1,)}


@pytest.mark.parametrize(
    ("places", "told"),
    [
        (np.zeros((9, 2)), "of type ndarray, shape (9, 2),"),
        ([[0, 0]] * 9, "of type list, length 9,"),
        (torch.zeros(9, 2, dtype=torch.complex64), "of torch.complex64"),
    ],
)
def test_places_that_are_no_tensor_of_real_numbers(places, told):
    head = build_mil("sparseconvmil", 12)
    with pytest.raises(ModelError, match=re.escape(told) + r".*9 tiles need.*\(9, 2\)"):
        head(torch.zeros(9, 12), places)

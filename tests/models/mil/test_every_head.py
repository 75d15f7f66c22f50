"""What every architecture keeps to, over one bag or several magnifications, with places or not."""

import json

import numpy as np
import pytest
import torch

from napari_wsi_xai.errors import ModelError
from napari_wsi_xai.models import MIL_ARCHITECTURES, build_mil, build_model, load_model, save_model
from napari_wsi_xai.runs.bag import evaluate_bag

EVERY = sorted(MIL_ARCHITECTURES)
D = 24
SMALL = {
    "sparseconvmil": {"channels": (8, 6), "hidden": (8,), "downsample": 100},
    "transmil": {"dim": 32},
    "xmil-transmil": {"dim": 32},
}
"""Sizes that keep the tests short."""


def head_of(architecture, num_classes=2):
    torch.manual_seed(7)
    return build_mil(architecture, D, num_classes, **SMALL.get(architecture, {}))


def inputs_of(head, tiles, seed=0):
    """A bag of ``tiles`` with places; for several magnifications a list, 4 children a tile."""
    generator = torch.Generator().manual_seed(seed)
    if head.magnification_use in ("zoom", "pool"):
        sizes = [tiles * 4**level for level in range(head.num_magnifications)]
        return [torch.randn(n, D, generator=generator) for n in sizes], None
    places = torch.stack([torch.arange(tiles) // 5, torch.arange(tiles) % 5], dim=1) * 100
    return torch.randn(tiles, D, generator=generator), places


def changed(bag, change):
    """The bag, or the finest of several, put through ``change``."""
    return [*bag[:-1], change(bag[-1])] if isinstance(bag, list) else change(bag)


def as_type(bag, dtype):
    return [one.to(dtype) for one in bag] if isinstance(bag, list) else bag.to(dtype)


def test_every_architecture_of_the_field_is_there():
    assert set(EVERY) == {
        *("mean", "max", "chowder", "abmil", "abmil-gated", "clam-sb", "clam-mb", "mil-fc"),
        *("dsmil", "transmil", "sparseconvmil", "msmil", "zoommil", "xmil-attnmil"),
        *("xmil-transmil", "dtfd", "mil-sil"),
    }


@pytest.mark.parametrize("architecture", EVERY)
@pytest.mark.parametrize("tiles", [1, 2, 3, 23])
def test_shapes_and_sums_of_small_and_odd_bags(architecture, tiles):
    head = head_of(architecture, 3)
    bag, places = inputs_of(head, tiles)
    out = head(bag, places)
    rows = sum(map(len, bag)) if isinstance(bag, list) else tiles
    assert out.logits.shape == (3,)
    assert torch.isfinite(out.logits).all()
    assert out.tile_scores.shape[0] == rows
    assert out.slide_descriptor.ndim == 1
    if out.attention is not None:
        assert out.attention.shape == out.tile_scores.shape
        assert (out.attention >= 0).all()
        torch.testing.assert_close(out.attention.sum(0), torch.ones(out.attention.shape[1]))


@pytest.mark.parametrize("architecture", EVERY)
def test_arguments_rebuild_the_head_and_eval_is_repeatable(architecture):
    head = head_of(architecture)
    bag, places = inputs_of(head, 9)
    again = build_mil(architecture, **json.loads(json.dumps(head.arguments)))
    again.load_state_dict(head.state_dict())
    assert not again.training
    assert again.arguments == head.arguments
    torch.testing.assert_close(again(bag, places).logits, head(bag, places).logits, rtol=0, atol=0)
    torch.testing.assert_close(head(bag, places).logits, head(bag, places).logits, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", EVERY)
def test_double_precision_agrees(architecture):
    """A head computes one function: float32 is it up to rounding."""
    head = head_of(architecture)
    bag, places = inputs_of(head, 23)
    single = head(bag, places).logits
    exact = head.double()(as_type(bag, torch.float64), places).logits
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("architecture", EVERY)
def test_float16_features_give_nearly_the_same(architecture):
    head = head_of(architecture)
    bag, places = inputs_of(head, 23)
    half, full = head(as_type(bag, torch.float16), places).logits, head(bag, places).logits
    torch.testing.assert_close(half, full, atol=1e-2, rtol=0)
    assert half.dtype == torch.float32


@pytest.mark.parametrize("architecture", EVERY)
def test_bad_bags_name_the_numbers(architecture):
    head = head_of(architecture)
    bag, places = inputs_of(head, 6)
    rows = len(bag[-1]) if isinstance(bag, list) else len(bag)
    with pytest.raises(ModelError, match=r"\b0 tiles"):
        head(changed(bag, lambda b: b[:0]), None if places is None else places[:0])
    with pytest.raises(ModelError, match=rf"\({rows}, {D - 1}\).*{D}"):
        head(changed(bag, lambda b: b[:, :-1]), places)

    def spoilt(one):
        one = one.clone()
        one[2, 3] = torch.nan
        return one

    with pytest.raises(ModelError, match=f"1 of {rows}"):
        head(changed(bag, spoilt), places)


@pytest.mark.parametrize("architecture", EVERY)
def test_gradients_reach_the_descriptors(architecture):
    """The gradient is the limit of a difference quotient, in double precision."""
    head = head_of(architecture).double()
    bag, places = inputs_of(head, 6)
    bag = as_type(bag, torch.float64)
    leaf = (bag[0] if isinstance(bag, list) else bag).requires_grad_()
    logit = head(bag, places).logits[1]
    (gradient,) = torch.autograd.grad(logit, leaf)
    direction = torch.randn(
        leaf.shape, dtype=leaf.dtype, generator=torch.Generator().manual_seed(3)
    )
    step = 1e-6

    def moved(sign):
        point = leaf.detach() + sign * step * direction
        return head([point, *bag[1:]] if isinstance(bag, list) else point, places).logits[1]

    slope = (moved(1) - moved(-1)).detach() / (2 * step)
    assert float(gradient.abs().sum()) > 0
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-4, abs=1e-9)


ONE_BAG = [name for name in EVERY if head_of(name).magnification_use == "single"]


@pytest.mark.parametrize("architecture", ONE_BAG)
def test_a_bag_that_comes_in_blocks_gives_the_same(architecture):
    head = head_of(architecture)
    bag, places = inputs_of(head, 23)
    cuts = [(0, 5), (5, 6), (6, 23)]
    streamed = evaluate_bag(
        head, lambda: ((bag[a:b].numpy(), places[a:b].numpy()) for a, b in cuts)
    )
    whole = head(bag, places)
    for name in ("logits", "tile_scores", "slide_descriptor", "attention"):
        one, other = getattr(streamed, name), getattr(whole, name)
        if other is None:
            assert one is None
        else:
            np.testing.assert_allclose(one, other.detach(), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("architecture", EVERY)
def test_a_bundle_keeps_the_head(architecture, tmp_path):
    head = head_of(architecture)
    mpp = [0.5 * 2**level for level in reversed(range(head.num_magnifications))]
    arguments = {k: v for k, v in head.arguments.items() if k not in ("in_features", "num_classes")}
    model = build_model("small-16-24", architecture, mpp=mpp if len(mpp) > 1 else 0.5, **arguments)
    again = load_model(save_model(model, tmp_path / "m.safetensors"))
    bag, places = inputs_of(head, 9)
    assert again.content_hash == model.content_hash
    torch.testing.assert_close(
        again.mil(bag, places).logits, model.mil(bag, places).logits, rtol=0, atol=0
    )

"""Arguments and inputs that no head can work with are refused in a sentence."""

import numpy as np
import pytest
import torch

from napari_wsi_xai.errors import BadArgumentError, ModelError
from napari_wsi_xai.models import MIL_ARCHITECTURES, build_mil
from napari_wsi_xai.models.mil.arguments import check_share, check_whole, described

EVERY = sorted(MIL_ARCHITECTURES)
D = 12


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3), [3, 4], (5,), []])
def test_whole_numbers_of_any_kind_pass(value):
    assert check_whole(3, k=value) is None


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (2, "k=2 must be at least 3."),
        (np.int64(2), "k=2 must be at least 3."),
        (2.5, "k=2.5 must be a whole number, at least 3."),
        ("3", "k='3' must be a whole number, at least 3."),
        (None, "k=None must be a whole number, at least 3."),
        ((4, 2), "k=[4, 2] must be at least 3."),
        ([4, 5.0], "k=[4, 5.0] must be whole numbers, each at least 3."),
    ],
)
def test_what_is_no_whole_number_is_named_with_the_limit(value, told):
    with pytest.raises(BadArgumentError) as raised:
        check_whole(3, k=value)
    assert str(raised.value) == told


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "a", None])
def test_shares_are_from_0_to_1(value):
    with pytest.raises(BadArgumentError, match=rf"^p={value!r} must be from 0 to 1\.$"):
        check_share(p=value)
    assert check_share(p=0, q=1.0, r=np.float32(0.25)) is None


def test_things_are_described_by_type_and_size():
    assert described(np.zeros((9, 12))) == "of type ndarray, shape (9, 12),"
    assert described([torch.zeros(2)] * 3) == "of type list, length 3,"
    assert described(None) == "of type NoneType"
    assert described("bag.npy") == "of type str"


@pytest.mark.parametrize(
    ("architecture", "name", "value"),
    [
        ("abmil", "hidden", "x"),
        ("chowder", "n_extreme", 2.5),
        ("chowder", "hidden", (0,)),
        ("chowder", "score_hidden", (1.5,)),
        ("clam-sb", "k_sample", 1.5),
        ("clam-mb", "hidden", -4),
        ("mil-fc", "hidden", 0),
        ("dsmil", "num_magnifications", 1.5),
        ("transmil", "landmarks", 2.5),
        ("transmil", "heads", 0.5),
        ("transmil", "residual_kernel", 2.5),
        ("xmil-transmil", "n_layers", 2.5),
        ("xmil-attnmil", "out_layers", -1),
        ("sparseconvmil", "channels", (8, 2.5)),
        ("sparseconvmil", "kernels", (3, 1.5)),
        ("msmil", "projection", (0,)),
        ("zoommil", "k_sample", 2.5),
        ("zoommil", "k_sample", "3"),
        ("dtfd", "groups", 1.5),
        ("dtfd", "seed", "a"),
        ("dtfd", "seed", -1),
    ],
)
def test_heads_refuse_what_is_no_length_or_number_of_things(architecture, name, value):
    with pytest.raises(BadArgumentError, match=rf"^{name}=.* must be .*at least \d\.$"):
        build_mil(architecture, D, 2, **{name: value})


@pytest.mark.parametrize("architecture", EVERY)
def test_dropout_is_a_share(architecture):
    names = [name for name in build_mil(architecture, D).arguments if "dropout" in name]
    assert names or architecture in ("mean", "max", "mil-sil", "msmil", "sparseconvmil")
    for name in names:
        with pytest.raises(BadArgumentError, match=rf"^{name}=1\.5 must be from 0 to 1\.$"):
            build_mil(architecture, D, **{name: 1.5})


@pytest.mark.parametrize("architecture", EVERY)
def test_bags_that_are_no_tensors_of_real_numbers(architecture):
    head = build_mil(architecture, D)
    bags = {"zoom": 3, "pool": 2}.get(head.magnification_use, 0)

    def given(bag):
        return [bag] * bags if bags else bag

    with pytest.raises(
        ModelError, match=rf"ndarray, shape \(9, {D}\),.*tiles, {D}\), as torch.as_tensor"
    ):
        head(given(np.zeros((9, D), "float32")))
    with pytest.raises(ModelError, match=rf"type list, length 9,.*number of tiles, {D}\)"):
        head(given(np.zeros((9, D)).tolist()))
    with pytest.raises(ModelError, match=rf"NoneType.*\(number of tiles, {D}\)"):
        head(given(None))
    with pytest.raises(ModelError, match=rf"complex64.*\(number of tiles, {D}\)"):
        head(given(torch.zeros(9, D, dtype=torch.complex64)))
    with pytest.raises(ModelError, match=rf"sparse_coo.*\(number of tiles, {D}\)"):
        head(given(torch.zeros(9, D).to_sparse()))
    with pytest.raises(ModelError, match=r"bag on meta.*head is on cpu"):
        head(given(torch.zeros(9, D, device="meta")))


@pytest.mark.parametrize("architecture", ["zoommil", "msmil"])
@pytest.mark.parametrize("given", [None, np.zeros((9, D), "float32"), "bag.npy"])
def test_heads_over_several_magnifications_want_a_list_of_bags(architecture, given):
    with pytest.raises(ModelError, match=r"^1 bag\(s\) do not fit: this .* head takes [23]"):
        build_mil(architecture, D)(given)


def test_one_bag_heads_refuse_bags_of_several_magnifications():
    with pytest.raises(ModelError, match=r"type list, length 3,.*this abmil head takes a tensor"):
        build_mil("abmil", D)([torch.zeros(9, D)] * 3)


@pytest.mark.parametrize("label", [-1, 2, 1.5, "a", None, torch.tensor(0.5)])
@pytest.mark.parametrize("call", ["clam-sb", "clam-mb", "mil-sil"])
def test_labels_are_classes(call, label):
    head = build_mil(call, D)
    train = head.losses if call == "mil-sil" else head.instance_evaluation
    with pytest.raises(BadArgumentError, match=r"^label=.* must be from 0 to 1\.$"):
        train(torch.zeros(20, D), label)


@pytest.mark.parametrize("label", [1, np.int64(1), torch.tensor(1)])
def test_labels_may_be_whole_numbers_of_any_kind(label):
    head = build_mil("mil-sil", D)
    bag = torch.ones(4, D)
    assert torch.equal(head.losses(bag, label).bag, head.losses(bag, 1).bag)

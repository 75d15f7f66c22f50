"""Published heads are recognised whatever wrappers did to their names, and give their numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import napari_wsi_xai
from golden_cases import assert_near, load_case
from napari_wsi_xai.errors import BadArgumentError, CheckpointError, ModelError
from napari_wsi_xai.models import MIL_ARCHITECTURES, import_checkpoint
from napari_wsi_xai.models.checkpoints.layouts import LAYOUTS
from reference_states import (
    METHODS,
    architecture_of,
    bag_for,
    listed_states,
    made_state,
    reference_names,
    stored_states,
)

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden"
LINEAR = {"classifier.weight": torch.ones(2, 8), "classifier.bias": torch.zeros(2)}


@cache
def states() -> dict[str, dict[str, torch.Tensor]]:
    """Every listed state dict, with made numbers; none where the reference numbers are absent."""
    if not GOLDEN.is_dir():
        return {}
    return {name: made_state(shapes) for name, shapes in listed_states(GOLDEN).items()}


def assert_same(head, other):
    assert head.arguments == other.arguments
    for name, tensor in other.state_dict().items():
        assert torch.equal(head.state_dict()[name], tensor), name


def test_every_stored_state_dict_is_recognised(golden):
    for case, state in stored_states(golden).items():
        head = import_checkpoint(state)
        assert head.architecture == architecture_of(case), case
        assert not head.training
        assert {p.dtype for p in head.parameters()} == {torch.float32}


def test_every_listed_state_dict_is_recognised_and_runs(golden):
    listed = listed_states(golden)
    assert {architecture_of(case) for case in listed} >= {"clam-mb", "mil-fc", "abmil", "zoommil"}
    for case, shapes in listed.items():
        head = import_checkpoint(made_state(shapes))
        assert head.architecture == architecture_of(case), case
        bag, coords = bag_for(head)
        out = head(bag, coords)
        assert torch.isfinite(out.logits).all(), case
        assert out.logits.shape == (head.num_logits,)
        assert math.isclose(sum(p.numel() for p in head.parameters()), _size(head, shapes)), case


def _size(head, shapes) -> int:
    """Numbers in the author's tensors that are no trunk's."""
    layouts = [layout for layout in LAYOUTS if layout.architecture == head.architecture]
    return sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if any(layout.our_name(name) for layout in layouts)
    )


def wrapped(prefix: str) -> Callable[[dict], dict]:
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


WRAPPERS = {
    "DataParallel": wrapped("module."),
    "Lightning": wrapped("model."),
    "another attribute": wrapped("my_net."),
    "compiled": wrapped("_orig_mod."),
    "Lightning and DataParallel": wrapped("model.module."),
    "compiled Lightning": wrapped("model._orig_mod."),
    "nested": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"m": torch.ones(9)}},
    "nested Lightning": lambda state: {"state_dict": wrapped("model.")(state), "global_step": 9},
    "double": lambda state: {name: tensor.double() for name, tensor in state.items()},
    "with a loss": lambda state: {**state, "instance_loss_fn.labels": torch.tensor([0, 1])},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_do_not_matter(golden, wrapper):
    for case, state in stored_states(golden).items():
        head = import_checkpoint(WRAPPERS[wrapper](state))
        assert head.architecture == architecture_of(case), case
        assert_same(head, import_checkpoint(state))


def test_data_parallel_around_a_part_does_not_matter(golden):
    for case, state in stored_states(golden).items():
        plain = import_checkpoint(state)
        for part in reference_names(state):
            inside = {
                f"{part}.module.{name[len(part) + 1 :]}" if name.startswith(f"{part}.") else name: t
                for name, t in state.items()
            }
            assert inside != state
            head = import_checkpoint(inside)
            assert head.architecture == architecture_of(case), (case, part)
            assert_same(head, plain)


def test_attention_without_gate_keeps_its_own_module(golden):
    """CLAM's names hold ``module`` by themselves; DataParallel may add another one."""
    state = made_state(listed_states(golden)["clam_sb_nogate"])
    plain = import_checkpoint(state)
    assert plain.architecture == "clam-sb"
    for place in ("", "attention_net."):
        assert_same(
            import_checkpoint(
                {
                    name.replace(place, f"{place}module.", 1) if name.startswith(place) else name: t
                    for name, t in state.items()
                }
            ),
            plain,
        )


def test_dsmil_of_camelyon16_gives_its_authors_numbers(golden, shared_data):
    case = load_case(golden / "dsmil" / "author_ckpt_c16.npz")
    head = napari_wsi_xai.import_checkpoint(shared_data / "weights" / "dsmil_c16_aggregator.pth")
    assert head.architecture == "dsmil"
    out = head(case.tensor("in/x"))
    assert_near(out.logits, case["out/prediction_bag"][0], "logits")
    assert_near(out.attention, case["out/A"], "attention")
    assert_near(out.tile_scores, case["out/A_raw_scaled"], "scores")
    assert_near(head.classify_tiles(case.tensor("in/x")), case["out/classes"], "tile logits")


def test_xmil_of_camelyon16_gives_its_authors_numbers(golden, shared_data):
    case = load_case(golden / "xmil" / "author_ckpt_attnmil_camelyon.npz")
    head = import_checkpoint(shared_data / "weights" / "xmil_camelyon_attnmil.pt")
    assert head.architecture == "xmil-attnmil"
    out = head(case.tensor("in/features"))
    assert_near(out.logits, case["out/logits"][0], "logits")
    assert_near(out.tile_scores[:, 0], case["out/attention_raw"], "scores")
    assert_near(out.attention[:, 0], case["out/attention_softmax"], "attention")


def test_dtfd_opens_from_its_four_dicts(shared_data):
    head = import_checkpoint(str(shared_data / "weights" / "dtfd_model.pth"))
    assert (head.architecture, head.in_features, head.num_classes) == ("dtfd", 1024, 2)
    out = head(torch.randn(40, 1024, generator=torch.Generator().manual_seed(0)))
    assert float(out.attention.detach().sum()) == pytest.approx(1)
    with pytest.raises(ModelError, match=r"\(3, 512\).*1024"):
        head(torch.zeros(3, 512))


def test_an_encoder_is_called_one(shared_data):
    with pytest.raises(CheckpointError, match=r"torchvision squeezenet1_1.*no MIL head"):
        import_checkpoint(shared_data / "weights" / "squeezenet1_1_imagenet.pth")


def test_several_heads_fit_a_linear_classifier():
    with pytest.raises(BadArgumentError, match="architecture='mean' or 'max' or 'mil-sil'"):
        import_checkpoint(LINEAR)
    for name in ("mean", "max", "mil-sil"):
        head = import_checkpoint(LINEAR, architecture=name)
        assert head.architecture == name
        assert torch.equal(head.classifier.weight, LINEAR["classifier.weight"])


def abmil(length: int = 6) -> dict[str, torch.Tensor]:
    """An attention head by its authors' names."""
    shapes = {
        "attention.0.weight": (5, length),
        "attention.0.bias": (5,),
        "attention.2.weight": (1, 5),
        "attention.2.bias": (1,),
        "classifier.0.weight": (1, length),
        "classifier.0.bias": (1,),
    }
    return made_state(shapes)


def test_options_override_what_is_assumed():
    head = import_checkpoint(abmil(), dropout=0.3)
    assert head.arguments["dropout"] == 0.3
    assert import_checkpoint(abmil(), in_features=6).in_features == 6


def test_unknown_options_are_answered_with_the_known_ones():
    with pytest.raises(BadArgumentError, match=r"abmil has no option 'gated'.*hidden, dropout"):
        import_checkpoint(abmil(), gated=True)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("in_features", 7, 6), ("hidden", 4, 5), ("num_classes", 3, 2), ("single_logit", False, True)],
)
def test_options_that_contradict_the_tensors(option, value, told):
    with pytest.raises(BadArgumentError, match=f"{option}={value}.*{option}={told}"):
        import_checkpoint(abmil(), **{option: value})


def test_unknown_architectures():
    with pytest.raises(BadArgumentError, match=r"'abmill'.*abmil"):
        import_checkpoint(abmil(), architecture="abmill")
    with pytest.raises(CheckpointError, match="nearest is abmil-gated"):
        import_checkpoint(abmil(), architecture="abmil-gated")


def test_what_does_not_fit_is_told():
    state = abmil()
    state["attention.1.weight"] = state.pop("attention.0.weight")
    with pytest.raises(CheckpointError) as error:
        import_checkpoint(state)
    assert "the nearest is abmil" in str(error.value)
    assert "missing attention.0.weight; left over attention.1.weight" in str(error.value)
    wide = abmil() | {"classifier.0.weight": torch.zeros(1, 9)}
    with pytest.raises(CheckpointError, match=r"classifier.0.weight has shape \(1, 9\).*\(1, 6\)"):
        import_checkpoint(wide)
    with pytest.raises(CheckpointError, match=r"none of its 9 tensors.* and 6 more"):
        import_checkpoint({f"x{i}.scale": torch.zeros(2) for i in range(9)})


def test_weights_that_are_no_numbers():
    state = abmil()
    state["attention.2.weight"][0, 3] = torch.nan
    with pytest.raises(CheckpointError, match=r"attention_w\.weight are not all finite"):
        import_checkpoint(state)


def test_random_numbers_of_the_caller_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    import_checkpoint(abmil())
    assert torch.equal(torch.rand(3), expected)


def test_the_head_does_not_share_memory_with_the_tensors():
    state = abmil()
    head = import_checkpoint(state)
    before = head.attention_w.weight.detach().clone()
    state["attention.2.weight"].zero_()
    assert torch.equal(head.attention_w.weight, before)


def test_every_layout_speaks_of_a_known_head():
    for layout in LAYOUTS:
        assert layout.architecture in MIL_ARCHITECTURES
        assert layout.optional <= set(layout.names)
        assert layout.source


def test_the_page_on_checkpoints_names_every_head_and_its_code():
    page = (Path(__file__).resolve().parents[3] / "docs" / "checkpoints.md").read_text("utf-8")
    for layout in LAYOUTS:
        assert f"`{layout.architecture}`" in page
        code = layout.source.split()[0]
        assert "/" not in code or code in page, code


def test_every_method_is_listed(golden):
    assert {architecture_of(case) for case in listed_states(golden)} <= set(MIL_ARCHITECTURES)
    assert all((golden / method / "ARRAYS.txt").is_file() for method in METHODS)


@given(st.data())
def test_one_tensor_less_or_renamed_is_never_taken_silently(data):
    """Either an error in one sentence, or a head without a tensor that may be absent."""
    everything = states() or {"abmil_plain": abmil()}
    case = data.draw(st.sampled_from(sorted(everything)))
    state = dict(everything[case])
    name = data.draw(st.sampled_from(sorted(state)))
    tensor = state.pop(name)
    renamed = data.draw(st.sampled_from([None, f"{name}x", f"other.{name}", name.upper()]))
    if renamed is not None:
        state[renamed] = tensor
    layouts = [one for one in LAYOUTS if one.architecture == architecture_of(case)]
    dispensable = any(one.ignores(name) or one.template_of(name) in one.optional for one in layouts)
    head, problem = attempt(state)
    if problem is not None:
        assert 40 < len(problem) < 1500
        assert "\n" not in problem
        assert renamed is not None or not any(one.ignores(name) for one in layouts)
    else:
        assert dispensable, name
        assert head.architecture == architecture_of(case)
        assert renamed is None or any(one.ignores(renamed) for one in layouts)


def attempt(state):
    """The head, or what the error says."""
    try:
        return import_checkpoint(state), None
    except CheckpointError as error:
        return None, str(error)


@given(st.data())
def test_one_tensor_of_another_shape_is_never_taken_silently(data):
    everything = states() or {"abmil_plain": abmil()}
    case = data.draw(st.sampled_from(sorted(everything)))
    layouts = [one for one in LAYOUTS if one.architecture == architecture_of(case)]
    state = dict(everything[case])
    known = sorted(name for name in state if any(one.our_name(name) for one in layouts))
    name = data.draw(st.sampled_from(known))
    axis = data.draw(st.integers(0, state[name].ndim - 1))
    change = [slice(None)] * state[name].ndim
    change[axis] = [*range(state[name].shape[axis]), 0]
    state[name] = state[name][tuple(change)]
    head, problem = attempt(state)
    if problem is None:  # only one tensor knows how long descriptors are
        assert head.in_features == state[name].shape[axis]
    else:
        assert 40 < len(problem) < 1500
        assert "\n" not in problem


def test_opening_warns_of_nothing(shared_data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        import_checkpoint(shared_data / "weights" / "dtfd_model.pth")

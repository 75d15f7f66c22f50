from __future__ import annotations

import torch

from napari_wsi_xai.models.checkpoints.names import cleaned_names


def variants(*names: str) -> list[set[str]]:
    return [
        set(v) for v in cleaned_names({name: torch.zeros(i + 1) for i, name in enumerate(names)})
    ]


def test_names_as_they_are_come_first():
    names = {"attention_net.3.module.2.weight", "classifiers.weight"}
    offered = variants(*names)
    assert offered[0] == names
    assert {"attention_net.3.2.weight", "classifiers.weight"} in offered


def test_data_parallel_around_a_part_beside_a_module_that_is_a_name():
    offered = variants("net.module.0.weight", "net.module.3.module.2.weight", "classifiers.weight")
    assert {"net.0.weight", "net.3.module.2.weight", "classifiers.weight"} in offered
    assert {"net.0.weight", "net.3.2.weight", "classifiers.weight"} in offered


def test_fronts_that_all_names_share_are_taken_off_one_by_one():
    assert variants("model.net.a.weight", "model.net.b.weight") == [
        {"model.net.a.weight", "model.net.b.weight"},
        {"net.a.weight", "net.b.weight"},
        {"a.weight", "b.weight"},
    ]
    assert variants("weight", "a.weight") == [{"weight", "a.weight"}]


def test_compiled_prefixes_and_losses_go_at_once():
    names = (
        "_orig_mod.a.weight",
        "b._orig_mod.weight",
        "instance_loss_fn.labels",
        "c.my_orig_mod.d",
    )
    assert variants(*names) == [{"a.weight", "b.weight", "c.my_orig_mod.d"}]
    assert variants("model.criterion.weight", "model.a.weight")[-1] == {"weight"}


def test_tensors_stay_with_their_names():
    tensors = {"module.a.weight": torch.tensor(1.0), "module.b.weight": torch.tensor(2.0)}
    cleaned = [v for v in cleaned_names(tensors) if "a.weight" in v]
    assert [float(v["a.weight"]) for v in cleaned] == [1]
    assert [float(v["b.weight"]) for v in cleaned] == [2]


def test_names_that_would_collide_are_not_offered():
    offered = variants("a.module.weight", "a.weight")
    assert offered == [{"a.module.weight", "a.weight"}, {"module.weight", "weight"}]


def test_many_wrapped_parts_stay_cheap():
    names = [f"part{i}.module.layer{j}.weight" for i in range(40) for j in range(5)]
    offered = variants(*names)
    assert {name.replace("module.", "") for name in names[:30]} <= set.union(*offered)
    assert len(offered) == 40

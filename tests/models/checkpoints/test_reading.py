from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_wsi_xai.errors import BadArgumentError, ModelFileError, WeightsNotFoundError
from napari_wsi_xai.models import build_model, save_model
from napari_wsi_xai.models.checkpoints.reading import read_checkpoint

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def save(content, path: Path, **how) -> Path:
    torch.save(content, path, **how)
    return path


def assert_state(tensors, prefix=""):
    assert list(tensors) == [f"{prefix}{name}" for name in STATE]
    for name, tensor in STATE.items():
        assert torch.equal(tensors[f"{prefix}{name}"], tensor)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("zipped", [True, False])
def test_nested_beside_an_optimiser(tmp_path, key, zipped):
    content = {
        "epoch": 7,
        "loss": 0.5,
        "best": True,
        "note": "x" * 500,
        "nothing": None,
        "bad": float("nan"),
        "optimizer_state_dict": {"state": {0: {"momentum_buffer": torch.zeros(9)}}},
        key: OrderedDict(STATE),
    }
    path = save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    contents = read_checkpoint(path)
    assert_state(contents.tensors)
    assert contents.facts == {"epoch": 7, "loss": 0.5, "best": True, "bad": "nan"}
    assert contents.origin == "'a.pt'"


def test_state_dict_in_memory_and_in_safetensors(tmp_path):
    assert_state(read_checkpoint(STATE).tensors)
    assert_state(read_checkpoint({"model": {"state_dict": STATE}}).tensors)
    save_file(STATE, tmp_path / "a.safetensors", {"epoch": "4"})
    contents = read_checkpoint(str(tmp_path / "a.safetensors"))
    assert sorted(contents.tensors) == sorted(STATE)
    assert contents.facts == {"epoch": "4"}


def test_parts_saved_apart_carry_their_names():
    parts = {"classifier": STATE, "attention": {"state_dict": STATE}, "optimizer": {"m": STATE}}
    tensors = read_checkpoint(parts).tensors
    assert list(tensors) == [
        f"{part}.{name}" for part in ("classifier", "attention") for name in STATE
    ]


def test_a_metric_kept_as_a_tensor_is_no_state_dict():
    assert_state(read_checkpoint({"best": torch.tensor(0.3), "state_dict": STATE}).tensors)


def test_gradients_stay_behind():
    parameter = torch.nn.Parameter(torch.ones(2))
    assert not read_checkpoint({"a": parameter}).tensors["a"].requires_grad


@pytest.mark.parametrize("nothing", [{}, {"epoch": 3}, {"state_dict": {}}])
def test_no_tensors(nothing, tmp_path):
    for source in (nothing, save(nothing, tmp_path / "a.pt")):
        with pytest.raises(ModelFileError, match="holds no state dict"):
            read_checkpoint(source)
    with pytest.raises(ModelFileError, match="holds no state dict"):
        read_checkpoint(save(torch.zeros(3), tmp_path / "b.pt"))


def test_neither_path_nor_mapping(tmp_path):
    with pytest.raises(BadArgumentError, match="not int"):
        read_checkpoint(3)
    with pytest.raises(WeightsNotFoundError, match="absent"):
        read_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(WeightsNotFoundError):
        read_checkpoint(tmp_path)


def test_a_bundle_is_called_one(tmp_path):
    model = build_model("small")
    for name in ("bundle", "bundle.safetensors"):
        with pytest.raises(ModelFileError, match="is a model bundle already"):
            read_checkpoint(save_model(model, tmp_path / name))


def test_numpy_scalars_are_read(tmp_path):
    content = {"auc": np.float64(0.75), "model_state_dict": STATE}
    before = set(torch.serialization.get_safe_globals())
    contents = read_checkpoint(save(content, tmp_path / "a.pt"))
    assert_state(contents.tensors)
    assert contents.facts == {"auc": 0.75}
    assert set(torch.serialization.get_safe_globals()) == before
    with torch.serialization.safe_globals([np.dtype]):  # what the caller allows stays allowed
        read_checkpoint(tmp_path / "a.pt")
        assert np.dtype in torch.serialization.get_safe_globals()


def test_names_of_both_numpy_generations_are_allowed(tmp_path):
    content = {"auc": np.float64(0.75), "model_state_dict": STATE}
    path = save(content, tmp_path / "a.pt", pickle_protocol=2)
    written = {
        "numpy._core": b"cnumpy._core.multiarray\n",
        "numpy.core": b"cnumpy.core.multiarray\n",
    }
    used = next(old for old in written.values() if old in path.read_bytes())
    for name, new in written.items():
        other = tmp_path / f"{name}.pt"
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
            for entry in source.infolist():
                target.writestr(entry.filename, source.read(entry).replace(used, new))
        assert read_checkpoint(other).facts == {"auc": 0.75}


class Payload:
    """Makes a folder when it is unpickled by a careless reader."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


class Called:
    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".bin", ".ckpt"])
def test_code_in_a_pickle_is_named_and_not_run(tmp_path, zipped, suffix):
    target = tmp_path / "made-by-code"
    content = {"model_state_dict": STATE, "auc": np.float64(1), "epoch": Payload(target)}
    path = save(content, tmp_path / f"a{suffix}", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelFileError) as error:
        read_checkpoint(path)
    assert not target.exists()
    assert "\n" not in str(error.value)
    if suffix != ".safetensors":
        assert f"{os.mkdir.__module__}.mkdir" in str(error.value)


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_is_not_run_either(tmp_path, protocol):
    target = tmp_path / "made-by-code"
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(Payload(target), protocol))
    with pytest.raises(ModelFileError, match=r"a\.pt"):
        read_checkpoint(path)
    assert not target.exists()


def test_other_objects_of_numpy_are_refused_by_name(tmp_path):
    with pytest.raises(ModelFileError, match=r"_reconstruct"):
        read_checkpoint(save({"a": np.zeros(3), "m": STATE}, tmp_path / "a.pt"))
    with pytest.raises(ModelFileError, match=r"Int64DType"):
        read_checkpoint(save({"a": np.int64(3), "m": STATE}, tmp_path / "b.pt"))


def test_a_whole_network_is_refused_by_name(tmp_path):
    with pytest.raises(ModelFileError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(save(torch.nn.Linear(2, 2), tmp_path / "a.pt"))


def test_a_program_is_called_one(tmp_path):
    path = tmp_path / "a.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(ModelFileError, match="TorchScript program"):
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_truncated(tmp_path, suffix, share):
    path = tmp_path / f"whole{suffix}"
    if suffix == ".pt":
        save({"state_dict": STATE}, path)
    else:
        save_file(STATE, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelFileError, match=f"whole{suffix}"):
        read_checkpoint(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = save({"a.weight": torch.arange(1000.0)}, tmp_path / "a.pt")
    content = bytearray(path.read_bytes())
    content[content.index(torch.tensor(500.0).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="checksum of its record"):
        read_checkpoint(path)


def test_large_files_are_mapped_and_equal(tmp_path, monkeypatch):
    from napari_wsi_xai.models import tensor_files

    mapped = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **kw: mapped.append(kw["mmap"]) or load(*a, **kw))
    path = save({"state_dict": STATE}, tmp_path / "a.pt")
    assert_state(read_checkpoint(path).tensors)
    monkeypatch.setattr(tensor_files, "_MAPPED_BYTES", 0)
    assert_state(read_checkpoint(path).tensors)
    old = save({"state_dict": STATE}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    assert_state(read_checkpoint(old).tensors)
    assert mapped == [False, True, False]

"""Encoders: descriptors against hand-made ones, weights files, preprocessing, pickling."""

import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from napari_wsi_xai.errors import (
    BadArgumentError,
    MissingExtraError,
    ModelFileError,
    WeightsNotFoundError,
)
from napari_wsi_xai.models import (
    EncoderSpec,
    Preprocessing,
    SmallCNN,
    build_encoder,
    list_encoders,
    small_encoder,
)
from napari_wsi_xai.models.encoders import download
from napari_wsi_xai.models.torchvision_import import import_torchvision


def tiles(n: int = 3, size: int = 96, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def whole_network(name: str) -> nn.Module:
    """torchvision's own network with the weights that seed 0 gives."""
    import_torchvision()
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        extra = {}
        if name == "inception_v3":
            extra = {"transform_input": True, "init_weights": False, "aux_logits": False}
        return models.get_model(name, weights=None, **extra).eval()


def into_classifier(network: nn.Module, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a layer of the whole network receives."""
    seen = []
    handle = layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network(x)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("name", "dim", "classifier"),
    [
        ("resnet18", 512, "fc"),
        ("resnet34", 512, "fc"),
        ("resnet50", 2048, "fc"),
        ("densenet121", 1024, "classifier"),
        ("inception_v3", 2048, "fc"),
        ("mobilenet_v3_small", 576, "classifier.0"),
        ("efficientnet_b0", 1280, "classifier.1"),
        ("convnext_tiny", 768, "classifier.2"),
        ("swin_t", 768, "head"),
        ("shufflenet_v2_x0_5", 1024, "fc"),
    ],
)
def test_descriptor_is_what_the_classifier_receives(name, dim, classifier):
    encoder = build_encoder(name)
    x = encoder.to_input(tiles(2))
    network = whole_network(name)
    expected = into_classifier(network, network.get_submodule(classifier), x).flatten(1)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.module(x), expected, rtol=1e-5, atol=1e-6)
    assert encoder.dim == dim == expected.shape[1]
    assert encoder.preprocessing.input_px is None
    assert not encoder.trained
    assert "untrained" in encoder.name


def test_vgg_is_averaged_over_positions():
    encoder = build_encoder("vgg11")
    x = encoder.to_input(tiles(1))
    with torch.inference_mode():
        expected = encoder.module.features(x).mean((2, 3))
        torch.testing.assert_close(encoder.module(x), expected)
    assert encoder.dim == 512


def test_vision_transformer_states_its_size_and_gets_it():
    encoder = build_encoder("vit_b_16")
    assert (encoder.dim, encoder.preprocessing.input_px) == (768, 224)
    assert encoder.to_input(tiles(1, 96)).shape == (1, 3, 224, 224)


def test_squeezenet_with_real_weights(shared_data):
    path = shared_data / "weights" / "squeezenet1_1_imagenet.pth"
    encoder = build_encoder("squeezenet1_1", str(path))
    network = whole_network("squeezenet1_1")
    network.load_state_dict(torch.load(path, weights_only=True))
    x = encoder.to_input(tiles(4, 224))
    with torch.inference_mode():
        expected = network.features(x).mean((2, 3))
        torch.testing.assert_close(encoder.module(x), expected, rtol=1e-5, atol=1e-6)
    assert encoder.dim == 512
    assert encoder.trained
    assert encoder.preprocessing.mean == (0.485, 0.456, 0.406)


def test_normalisation_of_every_byte_is_exact():
    encoder = build_encoder("squeezenet1_1")
    ramp = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 16, 16, 3)
    got = encoder.to_input(ramp).numpy()
    mean = np.array(encoder.preprocessing.mean)
    std = np.array(encoder.preprocessing.std)
    expected = ((ramp / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, expected, rtol=0, atol=3e-7)


def test_random_weights_follow_the_seed():
    a, b = (build_encoder(EncoderSpec("small", "small", seed=seed)) for seed in (0, 1))
    assert a.content_hash == build_encoder("small").content_hash != b.content_hash
    state = torch.random.get_rng_state()
    build_encoder("small")
    assert torch.equal(state, torch.random.get_rng_state())


def test_hash_depends_on_preprocessing():
    other = Preprocessing((0, 0, 0), (1, 1, 1))
    assert (
        build_encoder(EncoderSpec("small", "small", preprocessing=other)).content_hash
        != build_encoder("small").content_hash
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("wrap", ["plain", "parallel", "nested"])
def test_state_dict_files(tmp_path, suffix, wrap):
    from safetensors.torch import save_file

    state = {k: v.clone() for k, v in whole_network("resnet18").state_dict().items()}
    if wrap != "plain":
        state = {f"module.{key}": value for key, value in state.items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if wrap == "nested" else state, path)
    encoder = build_encoder("resnet18", str(path))
    assert encoder.content_hash == build_encoder("resnet18").content_hash
    with torch.inference_mode():
        x = encoder.to_input(tiles())
        again = pickle.loads(pickle.dumps(encoder))
        torch.testing.assert_close(again.module(x), encoder.module(x), rtol=0, atol=0)


def test_classifier_may_be_absent(tmp_path):
    state = whole_network("resnet18").state_dict()
    path = tmp_path / "headless.pth"
    torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, path)
    assert build_encoder("resnet18", str(path)).dim == 512


def test_published_densenet_names_are_understood(tmp_path):
    import re

    state = whole_network("densenet121").state_dict()
    old = {
        re.sub(r"(denselayer\d+)\.(norm|conv)([12])\.", r"\1.\2.\3.", k): v
        for k, v in state.items()
    }
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "densenet.pth")
    encoder = build_encoder("densenet121", str(tmp_path / "densenet.pth"))
    assert encoder.content_hash == build_encoder("densenet121").content_hash


def test_state_dict_of_another_network(tmp_path):
    path = tmp_path / "other.pth"
    state = whole_network("resnet18").state_dict()
    torch.save(state, path)
    with pytest.raises(ModelFileError, match=r"other\.pth lacks the tensor"):
        build_encoder("densenet121", str(path))
    with pytest.raises(ModelFileError, match=r"other\.pth lacks the tensor"):
        build_encoder("resnet34", str(path))
    torch.save(state | {"extra.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match=r"extra\.weight"):
        build_encoder("resnet18", str(path))
    torch.save(state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, path)
    with pytest.raises(ModelFileError, match=r"\(64, 1, 7, 7\).*\(64, 3, 7, 7\)"):
        build_encoder("resnet18", str(path))


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", ["bad.pth", "bad.pt", "bad.pt2", "bad.safetensors"])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_pickle_with_code_is_refused_and_not_run(tmp_path, name, form):
    path, target = tmp_path / name, tmp_path / "made-by-code"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Payload(target)))
    else:
        torch.save({"state_dict": Payload(target)}, path)
    encoder = (name,) if name.endswith((".pt", ".pt2")) else ("resnet18", name)
    with pytest.raises(ModelFileError) as error:
        build_encoder(*[str(tmp_path / part) if "." in part else part for part in encoder])
    assert not target.exists()
    assert "\n" not in str(error.value)


def test_truncated_weights(tmp_path, shared_data):
    content = (shared_data / "weights" / "squeezenet1_1_imagenet.pth").read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFileError, match="truncated"):
        build_encoder("squeezenet1_1", str(path))


def test_missing_file():
    with pytest.raises(WeightsNotFoundError, match="nowhere"):
        build_encoder("resnet18", "/nowhere/weights.pth")


def test_default_weights_come_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(download, "_download", _no_network)
    with pytest.raises(WeightsNotFoundError, match=r"resnet18-\w+\.pth") as error:
        build_encoder("resnet18", "DEFAULT")
    assert str(tmp_path / "checkpoints") in str(error.value)
    name = str(error.value).split("the file '")[1].split("'")[0]
    torch.save(whole_network("resnet18").state_dict(), tmp_path / "checkpoints" / name)
    encoder = build_encoder("resnet18", "DEFAULT")
    assert encoder.trained
    assert "IMAGENET1K_V1" in encoder.name


def _no_network(_url, _target):
    raise OSError("no route to host")


def test_download_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    source = tmp_path / "weights-0123abcd.pth"
    source.write_bytes(b"something else")
    with pytest.raises(ModelFileError, match="0123abcd"):
        download.fetch(source.as_uri(), "weights")
    assert not any((tmp_path / "checkpoints").iterdir())
    good = tmp_path / "weights.pth"
    good.write_bytes(b"content")
    assert download.fetch(good.as_uri(), "weights").read_bytes() == b"content"


def save_torchscript(path, module, size=96, **extra):
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3, size, size)), path, **extra)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_file(tmp_path):
    own = build_encoder("small")
    stated = json.dumps(SMALL := {"mean": [0.5] * 3, "std": [0.5] * 3})
    path = tmp_path / "net.pt"
    save_torchscript(path, own.module, _extra_files={"preprocessing.json": stated})
    encoder = build_encoder(str(path))
    assert encoder.preprocessing == Preprocessing(**SMALL)
    x = own.to_input(tiles())
    with torch.inference_mode():
        torch.testing.assert_close(encoder.module(x), own.module(x))
    again = pickle.loads(pickle.dumps(encoder))
    assert again.content_hash == encoder.content_hash
    save_torchscript(path, own.module.features)  # feature maps are averaged
    encoder = build_encoder(str(path))
    assert "assumed" in encoder.name
    with torch.inference_mode():
        torch.testing.assert_close(encoder.module(x), own.module(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamic", [True, False])
def test_torch_export_file(tmp_path, dynamic):
    own = build_encoder("small")
    sizes = ({0: torch.export.Dim("n", min=1, max=64)},) if dynamic else None
    program = torch.export.export(own.module, (torch.zeros(2, 3, 96, 96),), dynamic_shapes=sizes)
    path = tmp_path / "net.pt2"
    torch.export.save(program, path)
    encoder = build_encoder(str(path))
    assert encoder.preprocessing.input_px == 96
    x = own.to_input(tiles(5))
    with torch.inference_mode():
        torch.testing.assert_close(encoder.module(x), own.module(x), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("record", "old", "new"),
    [
        ("models/model.json", b"torch.ops.aten.relu.default", b"torch.serialization.os.system"),
        ("models/model.json", b"torch.ops.aten.relu.default", b"torch.ops.load_library"),
        ("data/weights/model_weights_config.json", b'"use_pickle": false', b'"use_pickle": true'),
        ("data/weights/model_weights_config.json", b"weight_0", b"opaque_obj_0"),
        ("models/model.json", b"Symbol('", b"eval('"),
    ],
)
def test_torch_export_file_with_code_is_refused(tmp_path, record, old, new):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x).relu().mean((2, 3))

    sizes = ({0: torch.export.Dim("n", min=1, max=64)},)
    program = torch.export.export(Net(), (torch.zeros(2, 3, 32, 32),), dynamic_shapes=sizes)
    path, bad = tmp_path / "net.pt2", tmp_path / "bad.pt2"
    torch.export.save(program, path)
    build_encoder(str(path))
    found = False
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(bad, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith(record):
                found = old in content
                content = content.replace(old, new)
            target.writestr(entry.filename, content)
    assert found
    with pytest.raises(ModelFileError, match="holds Python objects or code"):
        build_encoder(str(bad))


def test_small_network_is_small():
    module = SmallCNN()
    assert sum(p.numel() for p in module.parameters()) < 400_000
    assert build_encoder("small-8-16").dim == 16
    assert small_encoder(SmallCNN((8, 16))).spec.name == "small-8-16"
    with pytest.raises(BadArgumentError, match="small-x"):
        build_encoder("small-x")


def test_trained_in_memory_encoder_pickles_with_its_weights():
    module = SmallCNN((8, 16))
    nn.init.constant_(module.features[0][0].weight, 0.1)
    encoder = small_encoder(module)
    again = pickle.loads(pickle.dumps(encoder))
    assert again.content_hash == encoder.content_hash
    assert again.content_hash != build_encoder("small-8-16").content_hash


def test_rebuilt_once_a_process():
    encoder = build_encoder("small")
    assert len(pickle.dumps(encoder)) < 1000
    assert pickle.loads(pickle.dumps(encoder)) is pickle.loads(pickle.dumps(encoder))


def test_weights_changed_since_are_noticed(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(SmallCNN((8, 16)).state_dict(), path)
    pickled = pickle.dumps(build_encoder("small-8-16", str(path)))
    torch.save(SmallCNN((8, 16)).state_dict(), path)
    with pytest.raises(ModelFileError, match="have changed"):
        pickle.loads(pickled)


def test_timm_networks():
    pytest.importorskip("timm", reason="extra foundation is not installed")
    encoder = build_encoder("timm:vit_tiny_patch16_224")
    assert (encoder.dim, encoder.preprocessing.input_px) == (192, 224)
    assert encoder.preprocessing.mean == (0.5, 0.5, 0.5)
    encoder = build_encoder("timm:resnet18")
    network = encoder.module
    x = encoder.to_input(tiles())
    with torch.inference_mode():
        expected = network.forward_features(x).mean((2, 3))
        torch.testing.assert_close(encoder.module(x), expected)
    with pytest.raises(BadArgumentError, match="nonsense"):
        build_encoder("nonsense")


def test_timm_weights_from_a_file_and_from_nowhere(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm", reason="extra foundation is not installed")
    from napari_wsi_xai.models.encoders import timm_nets

    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pth")
    assert build_encoder("timm:resnet18", str(tmp_path / "w.pth")).trained
    monkeypatch.setattr(timm_nets, "_reachable", lambda _endpoint: False)
    monkeypatch.setattr(timm_nets, "getproxies", dict)
    for name in ("timm:resnet18", "hf-hub:nobody/nothing"):
        with pytest.raises(WeightsNotFoundError, match=r"model\.safetensors"):
            build_encoder(name, "DEFAULT")


def test_without_timm(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match="foundation"):
        build_encoder("hf-hub:owner/name")
    assert not list_encoders()[-1].installed


def test_unknown_names():
    with pytest.raises(BadArgumentError, match="nonsense"):
        build_encoder(EncoderSpec("torchvision", "nonsense"))
    with pytest.raises(BadArgumentError, match="kind"):
        EncoderSpec("nonsense", "resnet18")


def test_specs_survive_json():
    spec = EncoderSpec("timm", "x", "DEFAULT", 3, Preprocessing((0, 0, 0), (1, 1, 1), 224))
    assert EncoderSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    with pytest.raises(BadArgumentError):
        EncoderSpec.from_dict({"name": "x"})
    with pytest.raises(BadArgumentError, match="std"):
        Preprocessing((0, 0, 0), (1, 0, 1))


def test_list_of_encoders():
    names = {(entry.kind, entry.name) for entry in list_encoders()}
    assert {("small", "small"), ("torchvision", "resnet50")} <= names
    assert ("torchvision", "fcn_resnet50") not in names

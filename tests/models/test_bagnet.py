"""BagNets: the authors' numbers, what a position sees, weights files, engines."""

from __future__ import annotations

import importlib.util
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from golden_cases import Case, assert_near, cases
from napari_wsi_xai.errors import BadArgumentError, ModelError, ModelFileError, WeightsNotFoundError
from napari_wsi_xai.models import (
    BagNet,
    EncoderSpec,
    build_encoder,
    build_model,
    inspect_checkpoint,
    list_encoders,
    load_model,
    save_model,
)
from napari_wsi_xai.models.encoder_lengths import known_length
from napari_wsi_xai.models.encoders import bagnet_nets, download
from napari_wsi_xai.models.encoders.bagnet import RECEPTIVE_PX
from napari_wsi_xai.models.encoders.recognition import descriptor_length, recognise_encoder


def unusual(network: nn.Module, seed: int = 3) -> nn.Module:
    """Norms with statistics of their own, so that folding or skipping one shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.weight.data.uniform_(0.3, 0.6, generator=generator)
    return network.eval()


def image(n: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def tiles(n: int, height: int = 48, width: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def of_case(case: Case, golden: Path) -> BagNet:
    """The network of a file of reference numbers, with its stored or computed weights."""
    receptive_px = int(re.match(r"bagnet(\d+)_", case.name)[1])
    if case.state_dict:
        width = case.state_dict["conv1.weight"].shape[0]
        network = BagNet(receptive_px, width, case.state_dict["fc.weight"].shape[0])
        network.load_state_dict(case.state_dict)
        return network.eval()
    spec = importlib.util.spec_from_file_location("hash_weights", golden / "hash_weights.py")
    hash_weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hash_weights)
    network = BagNet(receptive_px, num_classes=case["out/logits"].shape[1])
    made = {n: torch.from_numpy(t) for n, t in hash_weights.fill(network.state_dict()).items()}
    network.load_state_dict(made, strict=False)
    return network.eval()


def test_reference_numbers(golden):
    for case in cases(golden, "bagnet"):
        network = of_case(case, golden)
        x = case.tensor("in/x").requires_grad_()
        logits, positions = network.logits(x), network.logit_map(x).movedim(1, -1)
        assert_near(logits, case["out/logits"], case.name)
        if "out/logit_map_BHWC" in case:
            assert_near(positions, case["out/logit_map_BHWC"], case.name)
            (gradient,) = torch.autograd.grad(logits[0, 1], x)
            assert_near(gradient[0], case["grad/logit_b0_c1_wrt_x_b0"], case.name)
        else:
            assert_near(positions[..., :8], case["out/logit_map_BHWC_first8"], case.name)
            (gradient,) = torch.autograd.grad(logits[0, 7], x)
            assert_near(gradient, case["grad/logit_c7_wrt_x"], case.name)


def test_reference_heat_maps(golden):
    """The authors' map has a value a pixel, of the square around it on an image framed by zeros."""
    for case in cases(golden, "bagnet", "*_thin.npz"):
        network, x = of_case(case, golden), case.tensor("in/heatmap_image")
        wanted, offset = case["out/heatmap_target1"], network.offset
        with torch.inference_mode():
            assert_near(network.logit_map(x).movedim(1, -1), case["out/logit_map_224_BHWC"])
            framed = nn.functional.pad(x, (offset,) * 4)
            for row, column in ((0, 0), (offset % 8, offset % 8), (3, 6)):
                shifted = network.logit_map(framed[..., row:, column:])[0, 1]
                assert_near(shifted, wanted[row::8, column::8], f"{case.name} {row} {column}")


@pytest.mark.parametrize("px", RECEPTIVE_PX)
def test_tensors_have_the_published_names_and_shapes(golden, px):
    listed = json.loads((golden / "bagnet" / f"bagnet{px}_native_keys.json").read_text())
    with torch.device("meta"):
        own = BagNet(px, num_classes=1000).state_dict()
    assert {name: list(tensor.shape) for name, tensor in own.items()} == listed


@pytest.mark.parametrize("px", RECEPTIVE_PX)
def test_a_position_sees_its_square_and_nothing_else(px):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = unusual(BagNet(px, 4)).double()
    x = image(8, 57, 49).double().requires_grad_()
    features = network.feature_map(x)
    assert features.shape == (8, network.dim, (57 - px) // 8 + 1, (49 - px) // 8 + 1)
    rows, columns = features.shape[2] - 1, 1
    (gradient,) = torch.autograd.grad(features[..., rows, columns].square().sum(), x)
    seen = gradient.abs().sum((0, 1)) > 0
    inside = torch.zeros_like(seen)
    inside[8 * rows : 8 * rows + px, 8 : 8 + px] = True
    assert not seen[~inside].any()
    assert seen[8 * rows, 8]
    assert seen[8 * rows + px - 1, 8 + px - 1]
    assert network.offset == px // 2
    alone = network(x[..., 8 * rows : 8 * rows + px, 8 : 8 + px])
    torch.testing.assert_close(alone, features[:, :, rows, columns], rtol=1e-9, atol=1e-12)


def test_descriptor_and_logits_are_means_over_positions():
    network = unusual(BagNet(9, 4, 3))
    x = image(2, 41, 67)
    features = network.feature_map(x)
    torch.testing.assert_close(network(x), features.flatten(2).mean(2))
    logits = network.logit_map(x)
    assert logits.shape == (2, 3, 5, 8)
    torch.testing.assert_close(logits.flatten(2).mean(2), network.logits(x))


def test_what_is_too_small_or_has_no_classifier():
    network = BagNet(17, 2).eval()
    assert network(image(1, 17, 17)).shape == (1, 64)
    with pytest.raises(ModelError, match=r"40 x 16 pixels is smaller than the 17 x 17"):
        network(image(1, 40, 16))
    with pytest.raises(ModelError, match="no classifier"):
        network.logits(image(1, 17, 17))
    with pytest.raises(BadArgumentError, match="receptive_px=16"):
        BagNet(16)


@pytest.mark.parametrize(
    ("name", "dim"), [("bagnet9", 2048), ("bagnet17-16", 512), ("bagnet33-4", 128)]
)
def test_names(name, dim):
    encoder = build_encoder(name)
    assert encoder.dim == dim == descriptor_length(name) == known_length(name)
    assert encoder.spec == EncoderSpec("bagnet", name)
    assert "untrained" in encoder.name
    assert encoder.preprocessing.mean == (0.485, 0.456, 0.406)
    assert encoder.content_hash == build_encoder(EncoderSpec("bagnet", name)).content_hash


def test_random_weights_follow_the_seed_and_leave_others_alone():
    state = torch.random.get_rng_state()
    one, other = (build_encoder(EncoderSpec("bagnet", "bagnet9-2", seed=k)) for k in (0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert one.content_hash != other.content_hash
    spread = one.module.layer4[0].conv3.weight.std().item()
    assert spread == pytest.approx((2 / (2 * 8 * 4)) ** 0.5, rel=0.1)


def test_an_encoder_that_is_trained_follows_its_batches():
    module = build_encoder("bagnet9-2").module.train()
    x = image(2, 24, 24) * 3 + 2
    with torch.no_grad():
        before_norm = module.conv2(module.conv1(x))
        for _ in range(60):
            module(x)
    torch.testing.assert_close(
        module.bn1.running_mean, before_norm.mean((0, 2, 3)), rtol=0.01, atol=0.01
    )
    assert BagNet(9, 2).bn1.momentum == 0.001


@pytest.mark.parametrize("px", RECEPTIVE_PX)
def test_no_convolution_of_one_pixel_strides(px):
    """Their gradients write out of bounds in oneDNN, where channels are few and last."""
    strided = [m for m in BagNet(px, 2).modules() if isinstance(m, nn.Conv2d) and m.stride > (1, 1)]
    assert all(m.kernel_size == (3, 3) for m in strided)
    assert len(strided) == {9: 2, 17: 3, 33: 3}[px]


@pytest.mark.parametrize("name", ["bagnet8", "bagnet9-0", "bagnet9-x", "bagnet33-16-8", "bagnet"])
def test_names_of_no_bagnet(name):
    with pytest.raises(BadArgumentError, match="names no BagNet"):
        build_encoder(name)


def test_bagnets_are_listed():
    listed = {(entry.kind, entry.name) for entry in list_encoders()}
    assert {("bagnet", f"bagnet{px}") for px in (9, 17, 33)} <= listed


@pytest.mark.parametrize("form", ["published", "parallel", "nested", "safetensors", "headless"])
def test_weights_files(tmp_path, form):
    from safetensors.torch import save_file

    network = unusual(BagNet(17, 2, 5))
    state = dict(network.state_dict())
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth.tar")
    if form == "headless":
        state = {name: t for name, t in state.items() if not name.startswith("fc.")}
    if form in ("parallel", "nested"):
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    if form == "safetensors":
        save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    else:
        torch.save({"state_dict": state, "epoch": 7} if form == "nested" else state, path)
    encoder = build_encoder("bagnet17-2", str(path))
    assert encoder.trained
    assert encoder.name == f"bagnet17-2 ({path.name})"
    x = encoder.to_input(tiles(2))
    with torch.inference_mode():
        torch.testing.assert_close(encoder.module(x), network(x), rtol=0, atol=0)
        again = pickle.loads(pickle.dumps(encoder))
        torch.testing.assert_close(again.module(x), network(x), rtol=0, atol=0)


def test_weights_of_another_network(tmp_path):
    torch.save(BagNet(9, 2).state_dict(), tmp_path / "nine.pth.tar")
    with pytest.raises(ModelFileError, match=r"nine\.pth\.tar: tensor 'layer3\.0\.conv2\.weight'"):
        build_encoder("bagnet17-2", str(tmp_path / "nine.pth.tar"))
    with pytest.raises(ModelFileError, match="conv1"):
        build_encoder("bagnet9", str(tmp_path / "nine.pth.tar"))


def test_published_weights_come_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(download, "_download", lambda *_: (_ for _ in ()).throw(OSError()))
    with pytest.raises(WeightsNotFoundError, match=r"bagnet16-105524de\.pth\.tar"):
        build_encoder("bagnet17", "DEFAULT")
    with pytest.raises(BadArgumentError, match="no weights of bagnet17-2 are published"):
        build_encoder("bagnet17-2", "DEFAULT")
    monkeypatch.setitem(bagnet_nets._PUBLISHED, "bagnet17-2", "narrow.pth.tar")
    download.cache_folder().mkdir(parents=True, exist_ok=True)
    torch.save(BagNet(17, 2, 5).state_dict(), download.cache_folder() / "narrow.pth.tar")
    assert build_encoder("bagnet17-2", "DEFAULT").name == "bagnet17-2 (narrow.pth.tar)"


def test_a_bundle_gives_the_encoder_back(tmp_path):
    torch.save(unusual(BagNet(33, 2, 4)).state_dict(), tmp_path / "w.pth")
    encoder = build_encoder("bagnet33-2", str(tmp_path / "w.pth"))
    model = build_model(encoder, "mil-sil", ("a", "b"), tile_px=48)
    for name in ("bundle", "bundle.safetensors"):
        path = save_model(model, tmp_path / name)
        assert load_model(path).content_hash == model.content_hash
        assert build_encoder("bagnet33-2", str(path)).content_hash == encoder.content_hash


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_engines_give_the_networks_numbers(engine):
    if engine == "openvino":
        pytest.importorskip("openvino", reason="extra openvino is not installed")
    encoder = build_encoder("bagnet17-4")
    unusual(encoder.module)
    ready = encoder.prepare("float32", "cpu", engine)
    for x in (tiles(3), tiles(2, 33, 57)):
        with torch.inference_mode():
            expected = encoder.module(encoder.to_input(x)).numpy()
        np.testing.assert_allclose(ready.encode(x), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ModelError, match=r"tile.* of .*16"):
        ready.encode(tiles(1, 16, 16))


def test_batch_norms_are_folded_by_the_torch_engine():
    from napari_wsi_xai.models.engine_torch import fused

    folded = fused(unusual(BagNet(9, 2)))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with pytest.raises(ModelError, match="8 x 8 pixels"):
        folded(image(1, 8, 8))


@pytest.mark.parametrize("px", RECEPTIVE_PX)
def test_weights_are_recognised(px):
    with torch.device("meta"):
        state = BagNet(px, num_classes=7).state_dict()
    assert recognise_encoder(state) == [f"bagnet{px}"]
    assert recognise_encoder({f"module.{name}": t for name, t in state.items()}) == [f"bagnet{px}"]


def test_a_bagnet_that_lacks_a_tensor_is_none():
    with torch.device("meta"):
        state = BagNet(17, 2).state_dict()
    assert recognise_encoder({n: t for n, t in state.items() if n != "layer4.2.bn3.bias"}) == []


def test_checkpoint_facts_name_the_bagnet(tmp_path):
    torch.save(BagNet(9, 2, 3).state_dict(), tmp_path / "w.pth.tar")
    facts = inspect_checkpoint(tmp_path / "w.pth.tar")
    assert (facts.kind, facts.architecture, facts.in_features) == ("encoder", "bagnet9-2", 64)
    assert facts.source == "encoder weights: BagNet bagnet9-2"

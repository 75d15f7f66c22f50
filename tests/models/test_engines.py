"""Engines: same numbers as the network, same bits every time, honest half precision."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

from napari_wsi_xai.errors import BadArgumentError, MissingExtraError, ModelError
from napari_wsi_xai.models import EncoderSpec, Preprocessing, build_encoder, precision
from napari_wsi_xai.models.encoders.encoder import Encoder

PLAIN = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def tiles(n: int, size: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def wrapped(module: nn.Module) -> Encoder:
    return Encoder(EncoderSpec("small", "small"), module, PLAIN, "test", rebuildable=False)


def own_descriptors(encoder: Encoder, x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return encoder.module(encoder.to_input(x)).numpy()


@pytest.fixture(scope="module", params=["openvino", "torch"])
def engine_name(request) -> str:
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="extra openvino is not installed")
    return request.param


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """ResNet-18 whose batch norms are not trivial, so that folding them wrongly shows."""
    built = build_encoder("resnet18")
    generator = torch.Generator().manual_seed(3)
    for module in built.module.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return built


@pytest.fixture(scope="module")
def ready(encoder, engine_name):
    return encoder.prepare("float32", "cpu", engine_name)


def test_float32_equals_the_network(encoder, ready, engine_name):
    x = tiles(5)
    np.testing.assert_allclose(ready.encode(x), own_descriptors(encoder, x), rtol=1e-3, atol=1e-4)
    assert (ready.precision, ready.device, ready.engine) == ("float32", "cpu", engine_name)
    assert ready.encode(x).dtype == np.float32


def test_a_descriptor_depends_on_its_tile_alone(ready):
    x = tiles(17)
    whole = ready.encode(x)
    for n in (0, 1, 2, 7, 8, 9):
        np.testing.assert_array_equal(ready.encode(x[:n]), whole[:n])
    np.testing.assert_array_equal(ready.encode(x[::-1]), whole[::-1])


def test_other_tile_sizes_and_strided_arrays(encoder, ready):
    for size in (48, 64, 96, 48):
        x = tiles(4, size)[::2]
        np.testing.assert_allclose(
            ready.encode(x), own_descriptors(encoder, x.copy()), rtol=1e-3, atol=1e-4
        )


def test_calls_from_several_threads(ready):
    parts = [tiles(5, seed=seed) for seed in range(4)]
    expected = [ready.encode(part) for part in parts]
    got: dict[int, np.ndarray] = {}

    def work(k: int) -> None:
        got[k] = ready.encode(parts[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        np.testing.assert_array_equal(got[k], expected[k])


def test_bfloat16_is_deterministic_and_says_what_it_costs(encoder, engine_name):
    x = tiles(6)
    one = encoder.prepare("bfloat16", "cpu", engine_name, sample=x)
    other = encoder.prepare("bfloat16", "cpu", engine_name)
    np.testing.assert_array_equal(one.encode(x), one.encode(x))
    np.testing.assert_array_equal(one.encode(x), other.encode(x))
    np.testing.assert_array_equal(one.encode(x)[2:4], one.encode(x[2:4]))
    measured = precision.cosines(one.encode(x), own_descriptors(encoder, x))
    assert one.cosine == pytest.approx(measured.min(), abs=1e-5)
    assert "lowest cosine" in one.note
    assert "median" in one.note
    assert one.precision == "bfloat16"
    assert other.cosine is None
    assert "no tiles" in other.note


def test_float16_on_request():
    x = tiles(2)
    ready = build_encoder("small").prepare("float16", "cpu", sample=x)
    assert ready.precision == "float16"
    assert ready.cosine > 0.999


def test_auto_without_native_half(encoder, monkeypatch):
    monkeypatch.setattr(precision, "_native_halves", lambda _device: ())
    ready = encoder.prepare(engine="torch", sample=tiles(2))
    assert ready.precision == "float32"
    assert "no native" in ready.note


def test_auto_without_tiles_stays_in_float32(encoder, monkeypatch):
    monkeypatch.setattr(precision, "_native_halves", lambda _device: ("bfloat16",))
    assert encoder.prepare(engine="torch").precision == "float32"


class Cancelling(nn.Module):
    """The mean of each channel less a constant close to it: what half precision cannot hold."""

    def __init__(self, near: float) -> None:
        super().__init__()
        self.near = nn.Parameter(torch.full((3,), near))

    def forward(self, x):
        return torch.cat([x.mean((2, 3)) + self.near - 100.3, x.mean((2, 3))], 1)


@pytest.mark.parametrize(("near", "kept"), [(100.3, "float32"), (0.0, "bfloat16")])
def test_auto_checks_itself(monkeypatch, near, kept):
    monkeypatch.setattr(precision, "_native_halves", lambda _device: ("bfloat16",))
    ready = wrapped(Cancelling(near)).prepare(engine="torch", sample=tiles(8))
    assert ready.precision == kept
    assert ("refused" in ready.note) == (kept == "float32")


def test_auto_refuses_a_single_bad_descriptor(monkeypatch):
    def cosines(a, _b):
        found = np.ones(len(a))
        found[3] = 0.9947
        return found

    monkeypatch.setattr(precision, "_native_halves", lambda _device: ("bfloat16",))
    monkeypatch.setattr(precision, "cosines", cosines)
    ready = build_encoder("small").prepare(engine="torch", sample=tiles(8))
    assert ready.precision == "float32"
    assert "0.9947 < 0.999" in ready.note


def test_half_precision_that_cannot_run_is_refused(monkeypatch):
    class FloatOnly(nn.Module):
        def forward(self, x):
            if x.dtype != torch.float32:
                raise RuntimeError("not implemented for this type")
            return x.mean((2, 3))

    monkeypatch.setattr(precision, "_native_halves", lambda _device: ("bfloat16",))
    ready = wrapped(FloatOnly()).prepare(engine="torch", sample=tiles(4))
    assert ready.precision == "float32"
    assert "not implemented" in ready.note


def test_squeezenet_in_bfloat16_is_refused_on_a_real_slide(shared_data):
    """Real weights, real tiles: the case that shows why the check is there."""
    tifffile = pytest.importorskip("tifffile")
    image = tifffile.imread(shared_data / "slides" / "CMU-1-Small-Region.svs", key=0)
    x = np.stack([image[y : y + 224, 0:224] for y in range(0, 2240, 224)])
    built = build_encoder(
        "squeezenet1_1", str(shared_data / "weights" / "squeezenet1_1_imagenet.pth")
    )
    ready = built.prepare(device="cpu", sample=x)
    assert ready.precision == "float32"
    half = built.prepare("bfloat16", "cpu", sample=x)
    assert half.cosine is not None
    assert half.cosine < precision.COSINE_LIMIT


def test_auto_falls_back_to_torch_where_conversion_fails():
    pytest.importorskip("openvino", reason="extra openvino is not installed")

    class DataDependent(nn.Module):
        def forward(self, x):
            return torch.stack([torch.linalg.svdvals(m.mean(0)[:3, :3]) for m in x])

    encoder = wrapped(DataDependent())
    ready = encoder.prepare("float32", "cpu")
    assert ready.engine == "torch"
    assert "PyTorch, because" in ready.note
    with pytest.raises(ModelError):
        encoder.prepare("float32", "cpu", "openvino")


def test_without_openvino(encoder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match="openvino"):
        encoder.prepare("float32", "cpu", "openvino")
    monkeypatch.setattr(precision, "find_spec", lambda _name: None)
    ready = encoder.prepare("float32", "cpu")
    assert ready.engine == "torch"
    assert "not installed" in ready.note


class Crowded(nn.Module):
    """Runs out of memory above so many tiles, as a graphics card does."""

    limit = 3

    def forward(self, x):
        if len(x) > Crowded.limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return x.mean((2, 3))


def test_out_of_memory_halves_the_batch_and_goes_on(monkeypatch):
    encoder = wrapped(Crowded())
    ready = encoder.prepare("float32", "cpu", "torch")
    x = tiles(11)
    np.testing.assert_allclose(ready.encode(x), own_descriptors_each(encoder, x), atol=1e-5)
    assert ready.batch_size == 2
    assert "Out of memory" in ready.note
    monkeypatch.setattr(Crowded, "limit", 0)
    with pytest.raises(ModelError, match="single tile"):
        ready.encode(x)


def own_descriptors_each(encoder, x):
    return np.concatenate([own_descriptors(encoder, tile[None]) for tile in x])


def test_float16_overflow_is_not_silent():
    class Large(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)).abs() * 300 * 300

    with pytest.raises(ModelError, match="float16 overflows"):
        wrapped(Large()).prepare("float16", "cpu").encode(np.zeros((1, 32, 32, 3), np.uint8))


def test_background_engine_gives_the_same_bits(encoder, engine_name, ready):
    x = tiles(3)
    quiet = encoder.prepare("float32", "cpu", engine_name, background=True)
    np.testing.assert_array_equal(quiet.encode(x), ready.encode(x))


def test_fixed_input_size_is_part_of_the_engine(engine_name):
    spec = EncoderSpec("small", "small", preprocessing=Preprocessing(*[(0.5,) * 3] * 2, 64))
    encoder = build_encoder(spec)
    x = tiles(3, 100)
    got = encoder.prepare("float32", "cpu", engine_name).encode(x)
    np.testing.assert_allclose(got, own_descriptors(encoder, x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"precision": "float8"},
        {"engine": "steam"},
        {"device": "toaster"},
        {"device": "cpu:x"},
        {"device": "cuda:99"},
        {"batch_size": 0},
    ],
)
def test_bad_arguments(encoder, arguments):
    with pytest.raises(BadArgumentError):
        encoder.prepare(**arguments)


def test_bad_tiles(ready):
    with pytest.raises(BadArgumentError, match="float64"):
        ready.encode(np.zeros((1, 64, 64, 3)))
    with pytest.raises(BadArgumentError, match=r"\(64, 64, 3\)"):
        ready.encode(np.zeros((64, 64, 3), np.uint8))


def test_cosines_in_closed_form():
    a = np.array([[1, 0], [1, 1], [0, 0], [0, 0], [np.nan, 1], [2, 0]], np.float32)
    b = np.array([[1, 0], [1, 0], [0, 0], [1, 0], [1, 1], [-3, 0]], np.float32)
    np.testing.assert_allclose(precision.cosines(a, b), [1, 2**-0.5, 1, 0, 0, -1], atol=1e-7)


def test_openvino_reports_nothing_to_anybody():
    """Converting and running leaves the package that phones home unimported."""
    code = (
        "import sys, numpy as np\n"
        "from napari_wsi_xai.models import EncoderSpec, build_encoder\n"
        "encoder = build_encoder(EncoderSpec('small', 'small-8-16', None))\n"
        "engine = encoder.prepare('float32', engine='openvino')\n"
        "engine.encode(np.zeros((1, 64, 64, 3), np.uint8))\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

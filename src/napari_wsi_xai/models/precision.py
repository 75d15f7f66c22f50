"""Choice of engine and precision, and the check that half precision keeps the numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from napari_wsi_xai.errors import BadArgumentError, ModelError
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.engine import Engine
from napari_wsi_xai.models.engine_torch import TorchEngine

__all__ = ["COSINE_LIMIT", "ENGINES", "PRECISIONS", "cosines", "prepare_engine", "resolve_device"]

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
ENGINES = ("auto", "openvino", "torch")
COSINE_LIMIT = 0.999
"""Lowest cosine to float32 that every descriptor of the sample must reach for ``"auto"``."""

_ENGINE_LIMIT = 0.99999  # two engines in float32 differ by rounding only
_SAMPLE_TILES = 32


Make = Callable[[str], Engine]


@dataclass(frozen=True)
class _Request:
    encoder: Encoder
    device: str
    engine: str
    batch_size: int
    background: bool
    sample: NDArray[np.uint8] | None


def prepare_engine(
    encoder: Encoder,
    precision: str = "auto",
    device: str = "auto",
    engine: str = "auto",
    sample: NDArray[np.uint8] | None = None,
    batch_size: int = 64,
    background: bool = False,
) -> Engine:
    """See :meth:`~napari_wsi_xai.models.Encoder.prepare`."""
    _require_one_of("precision", precision, PRECISIONS)
    _require_one_of("engine", engine, ENGINES)
    if batch_size < 1:
        raise BadArgumentError(f"batch_size={batch_size} must be at least 1.")
    device = resolve_device(device)
    if engine == "openvino" and device != "cpu":
        raise BadArgumentError(f"engine 'openvino' runs on the device cpu, not on {device}.")
    request = _Request(encoder, device, engine, batch_size, background, _few(sample))
    make, remark = _engine_maker(request)
    if precision == "auto":
        ready = _automatic(request, make)
    elif precision == "float32":
        ready = make("float32")
        ready.note = "float32 as asked."
    else:
        ready = _asked(request, make, precision)
    ready.note = f"{ready.note} {remark}".strip()
    return ready


def _require_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadArgumentError(f"{name}={value!r} must be one of {', '.join(known)}.")


def _few(sample: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
    """At most 32 tiles, spread over the sample."""
    if sample is None or len(sample) == 0:
        return None
    return sample[:: -(-len(sample) // _SAMPLE_TILES)]


def resolve_device(device: str) -> str:
    """``"auto"`` to the best device there is; others as PyTorch writes them.

    Raises
    ------
    BadArgumentError
        No such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda:0"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = device.partition(":")
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }.get(kind)
    if there is None or (number and not number.isdigit()) or int(number or 0) >= there:
        raise BadArgumentError(
            f"device {device!r} is not there: this machine has cpu"
            f"{', cuda' if torch.cuda.is_available() else ''}"
            f"{', mps' if torch.backends.mps.is_available() else ''}."
        )
    return f"cuda:{int(number or 0)}" if kind == "cuda" else kind


def _engine_maker(request: _Request) -> tuple[Make, str]:
    """What builds an engine for a precision, and a remark on the choice."""

    def with_torch(precision: str) -> Engine:
        return TorchEngine(
            request.encoder, precision, request.device, request.batch_size, request.background
        )

    if request.engine == "torch" or request.device != "cpu":
        return with_torch, ""
    if request.engine == "auto" and find_spec("openvino") is None:
        return with_torch, "OpenVINO is not installed: PyTorch, about half as fast."
    try:
        return _openvino_maker(request, with_torch), ""
    except ModelError as error:
        if request.engine == "openvino":
            raise
        return with_torch, f"PyTorch, because {error}"


def _openvino_maker(request: _Request, with_torch: Make) -> Make:
    from napari_wsi_xai.models.engine_openvino import OpenVINOEngine, convert

    network = convert(request.encoder)

    def build(precision: str) -> Engine:
        return OpenVINOEngine(request.encoder, network, precision, request.background)

    float32 = build("float32")
    _require_equal(float32, request)

    def make(precision: str) -> Engine:
        if precision == "float32":
            return float32
        # What a processor has not, OpenVINO computes in float32 and says nothing.
        native = precision in _native_halves(request.device)
        return build(precision) if native else with_torch(precision)

    return make


def _require_equal(engine: Engine, request: _Request) -> None:
    """An engine must give the network's own descriptors, up to rounding."""
    size = (request.encoder.preprocessing.input_px or 64) + 32
    tiles = (
        np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
        if request.sample is None
        else request.sample[:1]
    )
    with torch.inference_mode():
        own = request.encoder.module(request.encoder.to_input(tiles)).numpy()
    lowest = float(cosines(engine.encode(tiles), own).min())
    if lowest < _ENGINE_LIMIT:
        raise ModelError(
            f"{engine.engine} in float32 differs from the network itself: cosine {lowest:.6f} < "
            f"{_ENGINE_LIMIT}."
        )


def _automatic(request: _Request, make: Make) -> Engine:
    float32 = make("float32")
    candidates = _native_halves(request.device)
    if not candidates:
        float32.note = f"float32: {request.device} has no native half precision."
        return float32
    if request.sample is None:
        float32.note = f"float32: no tiles were given to check {candidates[0]} on."
        return float32
    reference = float32.encode(request.sample)
    refusals = []
    for precision in candidates:
        try:
            half = make(precision)
            _compare(half, request.sample, reference)
        except ModelError as error:
            refusals.append(f"{precision} refused: {error}")
            continue
        if half.cosine is not None and half.cosine >= COSINE_LIMIT:
            return half
        refusals.append(f"{precision} refused: lowest cosine {half.cosine:.4f} < {COSINE_LIMIT}.")
    float32.note = "float32; " + " ".join(refusals)
    return float32


def _asked(request: _Request, make: Make, precision: str) -> Engine:
    half = make(precision)
    if request.sample is None:
        half.note = f"{precision} as asked; no tiles were given to measure what it costs."
    else:
        _compare(half, request.sample, make("float32").encode(request.sample))
    if precision not in _native_halves(request.device):
        half.note += f" {request.device} has no native {precision}: float32 is faster."
    return half


def _compare(half: Engine, sample: NDArray[np.uint8], reference: NDArray[np.float32]) -> None:
    found = cosines(half.encode(sample), reference)
    half.cosine = float(found.min())
    half.note = (
        f"{half.precision}: lowest cosine to float32 {half.cosine:.5f}, median "
        f"{float(np.median(found)):.5f}, over {len(sample)} tiles."
    )


def _native_halves(device: str) -> tuple[str, ...]:
    """Half precisions that the device computes in natively, the preferred one first."""
    if device.startswith("cuda"):
        # bfloat16 cannot overflow on a later tile that the check has not seen
        return ("bfloat16", "float16") if torch.cuda.is_bf16_supported(False) else ("float16",)
    if device == "cpu" and _processor_has_bfloat16():
        return ("bfloat16",)
    return ()


def _processor_has_bfloat16() -> bool:
    # PyTorch's own probes are private, so their absence counts as a no.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine between the rows of two arrays (n, dim).

    Two rows of zeros agree (1); a zero row with another, and values that are not finite, do not
    (0).
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite: NDArray[np.bool_] = np.isfinite(x + y).all(axis=1).reshape(-1, 1)
    x, y = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    both_zero = ~x.any(axis=1) & ~y.any(axis=1) & finite[:, 0]
    found = (x * y).sum(axis=1) / np.where(lengths > 0, lengths, 1.0)
    return np.where(both_zero, 1.0, found)

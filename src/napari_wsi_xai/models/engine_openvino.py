"""The fast engine on processors: OpenVINO (extra ``openvino``), converted without files."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_wsi_xai.errors import MissingExtraError, ModelError
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.engine import Engine

__all__ = ["OpenVINOEngine", "convert", "usable_processors"]

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_SHAPES_KEPT = 2


class OpenVINOEngine(Engine):
    """Runs an encoder with OpenVINO, one tile per processor at a time.

    Measured on two cores (ResNet-50, 224 px), single tiles on one stream per core beat larger
    batches on all cores: no synchronisation inside a layer, activations that stay in the cache,
    and no filling up, whatever the number of tiles. A descriptor then cannot depend on its
    neighbours at all. Normalisation is part of the compiled network.

    Parameters
    ----------
    encoder
        What to run.
    network
        What :func:`convert` made of it; engines of several precisions share it.
    precision
        ``"float32"`` or ``"bfloat16"``.
    background
        See :class:`Engine`.
    """

    def __init__(self, encoder: Encoder, network: Any, precision: str, background: bool) -> None:
        super().__init__(encoder.dim, "openvino", "cpu", precision, 1, background)
        self._openvino = _openvino()
        self._core: Any = self._openvino.Core()
        self._name = encoder.name
        self._network = network
        self._queues: dict[tuple[int, ...], Any] = {}

    def _encode_into(self, tiles: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        queue = self._queue(tiles.shape[1:])
        queue.set_callback(
            lambda request, row: np.copyto(out[row], request.get_output_tensor().data[0])
        )
        try:
            for row in range(len(tiles)):
                queue.start_async([tiles[row : row + 1]], row, share_inputs=True)
        finally:
            queue.wait_all()  # also before an error leaves: running requests write into `out`

    def _queue(self, shape: tuple[int, ...]) -> Any:
        """Requests for tiles of one shape; fixed shapes are the fastest."""
        if shape not in self._queues:
            while len(self._queues) >= _SHAPES_KEPT:
                self._queues.pop(next(iter(self._queues)))
            compiled = self._compiled(shape)
            jobs = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
            self._queues[shape] = self._openvino.AsyncInferQueue(compiled, jobs)
        return self._queues[shape]

    def _compiled(self, shape: tuple[int, ...]) -> Any:
        network = self._network.clone()
        try:
            network.reshape([1, *shape])
            return self._core.compile_model(network, "CPU", self._options())
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[-1]
            raise ModelError(
                f"the encoder {self._name} cannot run on tiles of {shape[:2]} pixels: {reason}"
            ) from error

    def _options(self) -> dict[str, Any]:
        processors = usable_processors()
        return {
            "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
            "EXECUTION_MODE_HINT": "ACCURACY" if self.precision == "float32" else "PERFORMANCE",
            "INFERENCE_NUM_THREADS": processors,
            "NUM_STREAMS": processors,
            # Pinned threads would wait for a busy core while another idles (readers, the window).
            "ENABLE_CPU_PINNING": False,
        }


class _Whole(nn.Module):
    """uint8 tiles to descriptors in one graph."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.input = encoder.input
        self.module = encoder.module

    def forward(self, tiles: Tensor) -> Tensor:
        return self.module(self.input(tiles))  # type: ignore[no-any-return]


def convert(encoder: Encoder) -> Any:
    """The encoder as an OpenVINO network: uint8 tiles (n, p, p, 3) in, descriptors out.

    Raises
    ------
    MissingExtraError
        OpenVINO is not installed.
    ModelError
        OpenVINO cannot convert the network.
    """
    openvino = _openvino()
    # Another size than the network's own, or the trace would leave the resampling out.
    size = (encoder.preprocessing.input_px or 192) + 32
    example = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # Traced here, because the conversion's own tracing checks itself for seconds.
            traced = torch.jit.trace(_Whole(encoder).eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
            return openvino.convert_model(traced, example_input=example)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"OpenVINO cannot convert the encoder {encoder.name}: {reason}") from error


def _openvino() -> Any:
    # Its converter reports its use over the network; a program that reads patients' slides must
    # not. It does without where the package for that cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino", "engine='openvino'") from error
    return openvino


def usable_processors() -> int:
    """Processors that this process may use (its affinity, where the system has one)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""The feature extractor f_e: a network, its preprocessing, and what it is built from."""

from __future__ import annotations

import json
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_wsi_xai.errors import ModelError, ModelFileError
from napari_wsi_xai.models.spec import EncoderSpec, Preprocessing
from napari_wsi_xai.models.tensor_files import hash_bytes, hash_tensors

if TYPE_CHECKING:
    from napari_wsi_xai.models.engine import Engine

__all__ = ["Encoder", "TileInput"]

_PROBE_PX = 96  # the smallest square that every supported network without a fixed size takes
_rebuilt: dict[tuple[EncoderSpec, str], Encoder] = {}
_rebuild_lock = threading.Lock()


class TileInput(nn.Module):
    """uint8 tiles (n, p, p, 3) to a network's float32 input (n, 3, q, q).

    ``x = (tile / 255 - mean) / std``, written as one subtraction and one product so that every
    engine can fold it into its first layers. Tiles are resampled (bilinear, antialiased) before
    that only when the network takes no other size than ``q``.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        mean = torch.tensor(preprocessing.mean, dtype=torch.float64)
        std = torch.tensor(preprocessing.std, dtype=torch.float64)
        self.input_px = preprocessing.input_px
        self.register_buffer("mean", (mean * 255).float().view(1, 3, 1, 1))
        self.register_buffer("scale", (1 / (std * 255)).float().view(1, 3, 1, 1))

    def forward(self, tiles: Tensor) -> Tensor:
        """(n, p, p, 3) uint8 to (n, 3, q, q) float32, channels last in memory."""
        x = tiles.permute(0, 3, 1, 2).float()
        if self.input_px is not None and tuple(x.shape[-2:]) != (self.input_px, self.input_px):
            x = nn.functional.interpolate(
                x, size=(self.input_px, self.input_px), mode="bilinear", antialias=True
            )
        return (x - self.mean) * self.scale


class Encoder:
    """A frozen network that turns tiles into descriptors.

    Built by :func:`~napari_wsi_xai.models.build_encoder`. It pickles as its ``spec`` where that
    rebuilds it (weights named by a library or in a file), so that a worker process gets a few
    bytes; each process rebuilds a given encoder once.

    Parameters
    ----------
    spec
        What the encoder is built from.
    module
        The network: normalised float32 (n, 3, q, q) to descriptors (n, dim).
    preprocessing
        What the network expects.
    name
        For people: network and origin of the weights; says so when untrained.
    trained
        False for random weights.
    program
        The bytes of a serialized program (TorchScript, ``.pt2``), where the network is one.
    rebuildable
        Whether ``spec`` alone gives this encoder; otherwise it pickles with its weights.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        module: nn.Module,
        preprocessing: Preprocessing,
        name: str,
        *,
        trained: bool = True,
        program: bytes | None = None,
        rebuildable: bool = True,
    ) -> None:
        self.spec = spec
        self.preprocessing = preprocessing
        self.name = name
        self.trained = trained
        self.program = program
        self.rebuildable = rebuildable
        self.module = _frozen(module)
        self.input = TileInput(preprocessing)
        self.dim = _descriptor_length(self.module, preprocessing, name)

    @cached_property
    def content_hash(self) -> str:
        """``"sha256:..."`` of weights (or program) and preprocessing, whatever the path."""
        if self.program is not None:
            weights = hash_bytes(self.program)
        else:
            weights = hash_tensors(encoder_tensors(self.module))
        network = self.spec.kind if self.program is not None else self.spec.name
        config = json.dumps([network, self.preprocessing.to_dict()], sort_keys=True)
        return "sha256:" + hash_bytes(weights.encode(), config.encode())

    def to_input(self, tiles: NDArray[np.uint8] | Tensor) -> Tensor:
        """Tiles (n, p, p, 3) uint8 as ``module`` wants them: (n, 3, q, q) float32."""
        with torch.no_grad():
            return self.input(torch.as_tensor(tiles))  # type: ignore[no-any-return]

    def prepare(
        self,
        precision: str = "auto",
        device: str = "auto",
        engine: str = "auto",
        sample: NDArray[np.uint8] | None = None,
        batch_size: int = 64,
        background: bool = False,
    ) -> Engine:
        """Make the encoder ready to run fast on one device.

        Parameters
        ----------
        precision
            ``"float32"``; ``"bfloat16"`` or ``"float16"``, whose cost the engine's note tells; or
            ``"auto"``: half precision where the device has it natively *and* every descriptor of
            ``sample`` keeps a cosine of at least 0.999 with float32, else float32.
        device
            ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
        engine
            ``"auto"``, ``"openvino"`` or ``"torch"``.
        sample
            Real tiles (n, p, p, 3) uint8 for the check; without them half precision is not
            chosen by ``"auto"``.
        batch_size
            The most tiles that one call to the network may hold.
        background
            Whether to compute at lower scheduling priority (Linux), so that a window stays
            responsive.

        Raises
        ------
        BadArgumentError
            An argument is unknown, or the device does not exist.
        MissingExtraError
            ``engine="openvino"`` without the package.
        """
        from napari_wsi_xai.models.precision import prepare_engine

        return prepare_engine(self, precision, device, engine, sample, batch_size, background)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.rebuildable:
            return _rebuild, (self.spec, self.content_hash)
        return _restore, (self.spec, self.preprocessing, self.name, self.trained, self.module)

    def __repr__(self) -> str:
        return f"Encoder({self.name}, dim={self.dim})"


def encoder_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers that decide a network's output (batch counters of BatchNorm do not)."""
    return {
        name: tensor
        for name, tensor in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def _frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)


def _descriptor_length(module: nn.Module, preprocessing: Preprocessing, name: str) -> int:
    size = preprocessing.input_px or _PROBE_PX
    try:
        with torch.inference_mode():
            out = module(torch.zeros(1, 3, size, size))
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"encoder {name} cannot run on a float32 input of shape (1, 3, {size}, {size}): "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error
    if not isinstance(out, Tensor) or out.ndim != 2:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ModelError(
            f"encoder {name} gives {got} for one tile, but a descriptor of shape (1, D) is needed."
        )
    return int(out.shape[1])


def _rebuild(spec: EncoderSpec, content_hash: str) -> Encoder:
    from napari_wsi_xai.models.encoders import build_encoder

    with _rebuild_lock:
        key = (spec, content_hash)
        if key not in _rebuilt:
            encoder = build_encoder(spec)
            if encoder.content_hash != content_hash:
                raise ModelFileError(
                    f"the weights {spec.weights!r} of encoder {encoder.name} have changed since "
                    "this encoder was made: load the model again."
                )
            _rebuilt[key] = encoder
        return _rebuilt[key]


def _restore(
    spec: EncoderSpec, preprocessing: Preprocessing, name: str, trained: bool, module: nn.Module
) -> Encoder:
    return Encoder(spec, module, preprocessing, name, trained=trained, rebuildable=False)

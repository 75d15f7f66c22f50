"""The engine that is always there: PyTorch, convolutions fused with their norms, channels last."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_wsi_xai.errors import ModelError
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.engine import Engine, filled

__all__ = ["TorchEngine", "fused"]

_CPU_BATCH = 8  # larger activations leave glibc's heap (32 MiB) and are paged in anew every time
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchEngine(Engine):
    """Runs an encoder with PyTorch on any of its devices.

    Half precision means half-precision weights and activations (no autocast); pixels are
    normalised in float32 before. When the device's memory is too small for a batch, batches are
    halved from there on.
    """

    def __init__(
        self, encoder: Encoder, precision: str, device: str, batch_size: int, background: bool
    ) -> None:
        size = min(batch_size, _CPU_BATCH) if device == "cpu" else batch_size
        super().__init__(encoder.dim, "torch", device, precision, size, background)
        self._dtype = _DTYPES[precision]
        self._input = copy.deepcopy(encoder.input).to(device)
        self._module = _laid_out(fused(encoder.module), device, self._dtype)

    def _encode_into(self, tiles: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        start = 0
        while start < len(tiles):
            batch = tiles[start : start + self.batch_size]
            try:
                descriptors = self._run(torch.from_numpy(filled(batch, self.batch_size)))
            except torch.OutOfMemoryError as error:
                self._halve(error)
                continue
            out[start : start + len(batch)] = descriptors[: len(batch)].numpy()
            start += len(batch)

    def _run(self, tiles: Tensor) -> Tensor:
        with torch.inference_mode():
            x = self._input(tiles.to(self.device)).to(self._dtype)
            try:
                descriptors: Tensor = self._module(x.contiguous(memory_format=torch.channels_last))
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise ModelError(
                    f"the encoder cannot run on tiles of {tuple(tiles.shape[1:3])} pixels in "
                    f"{self.precision}: {str(error).strip().splitlines()[0]}"
                ) from error
            return descriptors.float().cpu()

    def _halve(self, error: Exception) -> None:
        if self.batch_size == 1:
            raise ModelError(
                f"the memory of {self.device} is too small for a single tile: use smaller tiles, "
                "or the device cpu."
            ) from error
        self.batch_size //= 2
        self.note += f" Out of memory: batches of {self.batch_size} tiles from here on."
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()


def fused(module: nn.Module) -> nn.Module:
    """A copy of a network in eval mode with batch norms folded into the convolutions before them.

    A network that cannot be traced symbolically is copied as it is.
    """
    from torch.fx.experimental import optimization

    copied = copy.deepcopy(module)
    if any(isinstance(m, (torch.jit.ScriptModule, torch.fx.GraphModule)) for m in module.modules()):
        return copied  # tracing would keep what lies inside a program in its own precision
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fused_module: nn.Module = optimization.fuse(copied)
            return fused_module.eval()
    except Exception:  # tracing runs the network's own code, which may raise anything
        return copied


def _laid_out(module: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    module = module.to(device=device, dtype=dtype)
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module

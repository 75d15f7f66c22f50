"""The engine that is always there: PyTorch, in eval mode, channels last."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.engine import Engine

__all__ = ["TorchEngine"]


class TorchEngine(Engine):
    """Runs an encoder's module with PyTorch."""

    def __init__(self, encoder: Encoder, precision: str, device: str, batch_size: int) -> None:
        super().__init__(encoder.dim, "torch", device, precision, batch_size)
        self._module = encoder.module
        self._input = encoder.input

    def _run(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            out = self._module(self._input(torch.from_numpy(tiles)))
        descriptors: NDArray[np.float32] = out.float().cpu().numpy()
        return descriptors

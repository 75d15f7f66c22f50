"""Choice of engine and precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.models.engine import Engine
from napari_wsi_xai.models.engine_torch import TorchEngine

if TYPE_CHECKING:
    from napari_wsi_xai.models.encoders.encoder import Encoder

__all__ = ["prepare_engine"]


def prepare_engine(
    encoder: Encoder,
    precision: str,
    device: str,
    engine: str,
    sample: NDArray[np.uint8] | None,
    batch_size: int,
) -> Engine:
    """See :meth:`~napari_wsi_xai.models.Encoder.prepare`."""
    ready = TorchEngine(encoder, "float32", "cpu", min(batch_size, 8))
    ready.note = "float32"
    return ready

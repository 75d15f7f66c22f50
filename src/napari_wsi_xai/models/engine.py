"""An encoder made ready to run: uint8 tiles in, float32 descriptors out."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import BadArgumentError

__all__ = ["Engine"]


class Engine(ABC):
    """Runs one encoder on one device in one precision.

    Tiles are passed to the network in batches of one fixed size, the last one filled up, so that
    a tile's descriptor depends neither on its neighbours nor on how many there are. One call at a
    time uses the network; calls from several threads wait for each other.

    Parameters
    ----------
    dim
        Length of a descriptor.
    engine, device, precision
        What runs where, and in which numbers.
    batch_size
        Tiles a batch.

    Attributes
    ----------
    engine
        ``"openvino"`` or ``"torch"``.
    device
        ``"cpu"``, ``"cuda:0"``, ``"mps"``.
    precision
        ``"float32"``, ``"bfloat16"`` or ``"float16"``: what is computed in; descriptors are
        float32 always.
    note
        Why this precision, and what it costs.
    cosine
        Lowest cosine between descriptors and those in float32 over the sample of the check;
        ``None`` where nothing was checked.
    """

    def __init__(self, dim: int, engine: str, device: str, precision: str, batch_size: int) -> None:
        self.dim = dim
        self.engine = engine
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.note = ""
        self.cosine: float | None = None
        self._lock = threading.Lock()

    def encode(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Descriptors of tiles.

        Parameters
        ----------
        tiles
            (n, p, p, 3) uint8, n >= 0.

        Returns
        -------
        ndarray
            (n, dim) float32. The same tiles give the same bits.

        Raises
        ------
        BadArgumentError
            The array has another shape or type.
        ModelError
            The network cannot run on tiles of this size.
        """
        if tiles.ndim != 4 or tiles.shape[-1] != 3 or tiles.dtype != np.uint8:
            raise BadArgumentError(
                f"tiles of shape {tiles.shape} and type {tiles.dtype} cannot be encoded: "
                "(n, height, width, 3) uint8 is needed."
            )
        out = np.empty((len(tiles), self.dim), dtype=np.float32)
        with self._lock:
            self._encode_into(np.ascontiguousarray(tiles), out)
        return out

    def _encode_into(self, tiles: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        for start in range(0, len(tiles), self.batch_size):
            batch = tiles[start : start + self.batch_size]
            out[start : start + len(batch)] = self._run(self._filled(batch))[: len(batch)]

    def _filled(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        missing = self.batch_size - len(batch)
        if not missing:
            return batch
        return np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), dtype=np.uint8)])

    @abstractmethod
    def _run(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Descriptors of one full batch."""

    def __repr__(self) -> str:
        return f"Engine({self.engine}, {self.device}, {self.precision}; {self.note})"

"""An encoder made ready to run: uint8 tiles in, float32 descriptors out."""

from __future__ import annotations

import os
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import BadArgumentError, ModelError

__all__ = ["Engine"]

T = TypeVar("T")
_NICENESS = 10


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
    background
        Whether to compute at lower scheduling priority (Linux), so that a window stays responsive.

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

    def __init__(
        self,
        dim: int,
        engine: str,
        device: str,
        precision: str,
        batch_size: int,
        background: bool = False,
    ) -> None:
        self.dim = dim
        self.engine = engine
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.note = ""
        self.cosine: float | None = None
        self._lock = threading.Lock()
        # Threads inherit the priority of the thread that starts them, so everything that makes
        # inference threads has to happen on one that lowered its own.
        self._quiet = ThreadPoolExecutor(1, "encoder", _lower_priority) if background else None

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
            The network cannot run on tiles of this size, not even a single tile fits into the
            device's memory, or float16 overflows.
        """
        if tiles.ndim != 4 or tiles.shape[-1] != 3 or tiles.dtype != np.uint8:
            raise BadArgumentError(
                f"tiles of shape {tiles.shape} and type {tiles.dtype} cannot be encoded: "
                "(n, height, width, 3) uint8 is needed."
            )
        out = np.empty((len(tiles), self.dim), dtype=np.float32)
        if len(tiles):
            with self._lock:
                self._quietly(lambda: self._encode_into(np.ascontiguousarray(tiles), out))
        if self.precision == "float16" and not np.isfinite(out).all():
            raise ModelError(
                "float16 overflows in this encoder (largest finite value 65504): use bfloat16 or "
                "float32."
            )
        return out

    def _quietly(self, work: Callable[[], T]) -> T:
        return work() if self._quiet is None else self._quiet.submit(work).result()

    @abstractmethod
    def _encode_into(self, tiles: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write descriptors of at least one tile into ``out``."""

    def __repr__(self) -> str:
        return f"Engine({self.engine}, {self.device}, {self.precision}; {self.note})"


def filled(batch: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The batch with black tiles behind it, up to ``size``."""
    missing = size - len(batch)
    if not missing:
        return batch
    return np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), dtype=np.uint8)])


def _lower_priority() -> None:
    # Elsewhere a priority belongs to the whole process, which must keep its own.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)

"""Seeded noise that depends on the position alone.

Every random number of a demo slide is a hash of (seed, salt, lattice position). Any rectangle of
the slide can therefore be rendered by itself, and neighbours agree at their seams to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from napari_wsi_xai.geometry import Region

__all__ = ["Lattice", "noise_at", "noise_field", "periodic_texture", "uniform", "wrapped"]

Floats = NDArray[np.float32]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014): every input bit changes every output."""
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


def uniform(seed: int, salt: int, *positions: ArrayLike) -> NDArray[np.float64]:
    """Hash integers to [0, 1).

    Parameters
    ----------
    seed, salt
        The slide, and what the number is for.
    positions
        Integer arrays that broadcast against each other (lattice rows, columns, indices).
    """
    state = _mix(np.array([seed, salt], dtype=np.int64).view(np.uint64) + _GOLDEN)
    state = _mix(state[:1] * _MIX_1 + state[1:])
    for position in positions:
        index = np.atleast_1d(np.asarray(position, dtype=np.int64)).view(np.uint64)
        state = _mix(state + (index + np.uint64(1)) * _GOLDEN)
    shape = np.broadcast_shapes(*(np.shape(position) for position in positions))
    return np.asarray((state >> np.uint64(11)).reshape(shape) * 2.0**-53)


def _spline_weights(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic B-spline weights (n, 4) of the nodes at -1, 0, 1, 2 for offsets t in [0, 1)."""
    return np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=-1
    ) / np.float64(6)


def _linear_weights(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear weights (n, 4) of the same four nodes."""
    zero = np.zeros_like(t)
    return np.stack([zero, 1 - t, t, zero], axis=-1)


@lru_cache(maxsize=512)
def _operator(phase: int, length: int, spacing: int, cubic: bool) -> sparse.csr_array:
    """Interpolation of one axis as a sparse matrix (length, nodes).

    A sparse product adds its terms one by one in a fixed order, so the value of a pixel does not
    depend on the rectangle it is computed in; a BLAS product gives no such promise.
    """
    position = phase + np.arange(length)
    node, t = position // spacing, (position % spacing) / spacing
    weights = _spline_weights(t) if cubic else _linear_weights(t)
    columns = node[:, None] + np.arange(4)
    nodes = (phase + length - 1) // spacing + 4
    rows = np.repeat(np.arange(length), 4)
    entries = (weights.astype(np.float32).ravel(), (rows, columns.ravel()))
    return sparse.csr_array(entries, shape=(length, nodes))


@dataclass(frozen=True)
class Lattice:
    """Nodes every ``spacing`` pixels around a region, one before its first and two after its last.

    Nodes sit on multiples of ``spacing`` of the whole slide, whatever the region.
    """

    region: Region
    spacing: int
    cubic: bool = False

    def nodes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows (h, 1) and columns (1, w) of the nodes, in units of ``spacing``."""
        r, s = self.region, self.spacing
        rows = np.arange(r.y // s - 1, (r.y + r.height - 1) // s + 3, dtype=np.int64)
        columns = np.arange(r.x // s - 1, (r.x + r.width - 1) // s + 3, dtype=np.int64)
        return rows[:, None], columns[None, :]

    def upsample(self, values: NDArray[np.floating]) -> Floats:
        """Node values (h, w) to pixel values of the region (height, width), float32."""
        r, s = self.region, self.spacing
        along_y = _operator(r.y % s, r.height, s, self.cubic)
        along_x = _operator(r.x % s, r.width, s, self.cubic)
        narrow = np.ascontiguousarray((along_x @ values.astype(np.float32).T).T)
        return np.asarray(along_y @ narrow)


def noise_field(region: Region, spacing: int, seed: int, salt: int) -> Floats:
    """Smooth noise of about unit spread over a region; features are ``spacing`` pixels wide."""
    lattice = Lattice(region, spacing, cubic=True)
    rows, columns = lattice.nodes()
    return lattice.upsample(4.0 * uniform(seed, salt, rows, columns) - 2.0)


def noise_at(
    y: NDArray[np.float64], x: NDArray[np.float64], spacing: int, seed: int, salt: int
) -> NDArray[np.float64]:
    """The noise of :func:`noise_field` at scattered points (n,)."""
    node_y, node_x = np.floor(y / spacing), np.floor(x / spacing)
    weights_y, weights_x = (
        _spline_weights(y / spacing - node_y),
        _spline_weights(x / spacing - node_x),
    )
    steps = np.arange(-1, 3)
    rows = (node_y.astype(np.int64)[:, None] + steps)[:, :, None]
    columns = (node_x.astype(np.int64)[:, None] + steps)[:, None, :]
    values = 4.0 * uniform(seed, salt, rows, columns) - 2.0
    return np.asarray(np.einsum("ni,nij,nj->n", weights_y, values, weights_x))


@lru_cache(maxsize=8)
def periodic_texture(
    salt: int, blur_yx: tuple[tuple[float, float], ...], size: int = 1024
) -> Floats:
    """Texture (size, size) that wraps around, zero mean and unit spread.

    The sum of white noise blurred by each Gaussian of ``blur_yx`` (sigma in pixels), made in the
    Fourier domain, where a blur is a product and wraps by itself.
    """
    frequency = np.fft.fftfreq(size)
    half = np.fft.rfftfreq(size)
    total = np.zeros((size, size))
    for layer, (sigma_y, sigma_x) in enumerate(blur_yx):
        white = uniform(layer, salt, np.arange(size)[:, None], np.arange(size)[None, :]) - 0.5
        decay = np.exp(
            -2 * np.pi**2 * ((sigma_y * frequency[:, None]) ** 2 + (sigma_x * half[None, :]) ** 2)
        )
        decay[0, 0] = 0
        blurred = np.fft.irfft2(np.fft.rfft2(white) * decay, s=(size, size))
        total += blurred / blurred.std()
    return np.asarray(total / total.std(), dtype=np.float32)


def wrapped(texture: Floats, region: Region, offset: tuple[int, int] = (0, 0)) -> Floats:
    """A periodic texture as it lies over a region of the slide (a copy)."""
    size = texture.shape[0]
    rows = (np.arange(region.y, region.y + region.height) + offset[0]) % size
    columns = (np.arange(region.x, region.x + region.width) + offset[1]) % size
    return np.asarray(texture[rows][:, columns])

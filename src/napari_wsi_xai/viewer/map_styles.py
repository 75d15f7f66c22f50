"""How the values of a map become colours, and what a map is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.viewer.colours import diverging, sequential
from napari_wsi_xai.viewer.snapshot import METHOD_WORDS

if TYPE_CHECKING:
    from napari.utils.colormaps import Colormap

__all__ = ["MapStyle", "map_name", "map_style"]


@dataclass(frozen=True)
class MapStyle:
    """How the values of a map become colours.

    Attributes
    ----------
    kind
        ``"diverging"`` (centred at 0) or ``"sequential"``.
    limits
        Values of the colormap's ends.
    words
        What colours mean, with the limits, for people.
    """

    kind: str
    limits: tuple[float, float]
    words: str

    @property
    def colormap(self) -> Colormap:
        """The colours themselves."""
        return diverging() if self.kind == "diverging" else sequential()


def map_style(key: str, values: NDArray[np.float32], score_kind: str = "") -> MapStyle:
    """Choose colours for a map from what it holds.

    Attention runs from 0 to its maximum. A tile score that takes both signs and whose zero means
    something (a class score: 0 speaks neither for nor against) diverges from 0, with limits
    ``-m, m`` for the largest absolute value m. Any other runs from its minimum to its maximum.

    Parameters
    ----------
    key
        ``"method/class"``.
    values
        (rows, cols) float32 with NaN where not computed.
    score_kind
        What a tile score is, in words; "attention logit" has no meaningful zero.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if key.startswith("attention/"):
        return _style("sequential", 0.0, high)
    if score_kind.startswith("attention") or (finite.size and low >= 0):
        return _style("sequential", 0.0 if 0 <= low <= high <= 1 else low, high)
    bound = max(abs(low), abs(high))
    return _style("diverging", -bound, bound)


def _style(kind: str, low: float, high: float) -> MapStyle:
    if not high > low:
        high = low + 1.0
    colours = "blue to orange, light at 0" if kind == "diverging" else "viridis"
    return MapStyle(kind, (low, high), f"{colours}, from {low:.3g} to {high:.3g}")


def map_name(name: str, key: str) -> str:
    """``"CMU-1 · tile score · tumor"`` from the slide's name and ``"tile-scores/tumor"``."""
    method, _, target = key.partition("/")
    words = METHOD_WORDS.get(method, method.replace("-", " "))
    return " · ".join([name, words] + ([target] if target not in ("", "all") else []))

"""Colours of maps and tiles: perceptually even and legible to colour-blind eyes.

A score with a meaningful zero gets a diverging map (blue below, orange above, light at zero); a
quantity from nothing to much gets viridis. Both stay readable over the pinks and purples of H&E.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari.utils.colormaps import Colormap, DirectLabelColormap

__all__ = ["CLASS_COLOURS", "class_colour", "diverging", "label_colours", "sequential"]

BLUE, LIGHT, ORANGE = (0.03, 0.20, 0.42), (0.97, 0.96, 0.93), (0.72, 0.26, 0.02)
"""Ends and middle of the diverging map, sRGB; both ends equally far from the middle."""

CLASS_COLOURS = (
    (0.94, 0.89, 0.26),
    (0.80, 0.47, 0.65),
    (0.0, 0.62, 0.45),
    (0.34, 0.71, 0.91),
    (0.90, 0.62, 0.0),
    (0.0, 0.45, 0.70),
)
"""Okabe and Ito's palette, told apart with every common kind of colour blindness."""


@lru_cache(maxsize=1)
def diverging() -> Colormap:
    """Blue, light, orange; even steps in Oklab, so that equal differences look equal."""
    from napari.utils.colormaps import Colormap

    low, middle, high = (_to_oklab(np.asarray(c)) for c in (BLUE, LIGHT, ORANGE))
    steps = np.linspace(0, 1, 65)[:, None]
    half = [a + (b - a) * steps for a, b in ((low, middle), (middle, high))]
    colours = _from_oklab(np.concatenate([half[0], half[1][1:]]))
    return Colormap(colours, name="wsi-xai diverging", display_name="blue-orange")


def sequential() -> str:
    """Name of napari's viridis."""
    return "viridis"


def class_colour(index: int) -> tuple[float, float, float]:
    """Colour of the class at ``index``; the palette repeats after six."""
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]


def label_colours(class_of_label: dict[int, int]) -> DirectLabelColormap:
    """Each label in the colour of its class, nothing where there is no label."""
    from napari.utils.colormaps import DirectLabelColormap

    clear = np.zeros(4, dtype=np.float32)
    colours: dict[int | None, NDArray[np.float32]] = {None: clear, 0: clear}
    for label, index in class_of_label.items():
        colours[label] = np.array([*class_colour(index), 1.0], dtype=np.float32)
    return DirectLabelColormap(color_dict=colours)


_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
"""Oklab (B. Ottosson, 2020): linear sRGB to cone responses, their cube roots to L, a, b."""


def _to_oklab(srgb: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T)


def _from_oklab(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = ((lab @ np.linalg.inv(_TO_LAB).T) ** 3) @ np.linalg.inv(_TO_LMS).T
    linear = np.clip(linear, 0, 1)
    curved = 1.055 * linear ** (1 / 2.4) - 0.055
    return np.asarray(np.where(linear <= 0.0031308, linear * 12.92, curved))

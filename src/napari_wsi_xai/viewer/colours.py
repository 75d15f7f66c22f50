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
    (0.00, 0.90, 1.00),
    (1.00, 0.05, 0.55),
    (1.00, 1.00, 1.00),
    (0.55, 1.00, 0.20),
    (0.00, 0.00, 0.00),
    (1.00, 0.75, 0.00),
)
"""Of frames: rare in maps and in H&E, and of different lightness, for colour-blind eyes."""


FAINTEST = 0.3
"""Opacity where a map has little to say: the tissue shows through."""


@lru_cache(maxsize=1)
def diverging() -> Colormap:
    """Blue, light, orange; even steps in Oklab, so that equal differences look equal.

    The further from the middle, the more opaque.
    """
    from napari.utils.colormaps import Colormap

    low, middle, high = (_to_oklab(np.asarray(c)) for c in (BLUE, LIGHT, ORANGE))
    steps = np.linspace(0, 1, 65)[:, None]
    half = [a + (b - a) * steps for a, b in ((low, middle), (middle, high))]
    colours = _from_oklab(np.concatenate([half[0], half[1][1:]]))
    alpha = FAINTEST + (1 - FAINTEST) * np.abs(np.linspace(-1, 1, len(colours)))
    rgba = np.column_stack([colours, alpha])
    return Colormap(rgba, name="wsi-xai diverging", display_name="blue-orange")


@lru_cache(maxsize=1)
def sequential() -> Colormap:
    """Viridis, the more opaque the higher the value."""
    from napari.utils.colormaps import Colormap, ensure_colormap

    rgba = np.array(ensure_colormap("viridis").colors, dtype=float)
    rgba[:, 3] = np.linspace(FAINTEST, 1, len(rgba))
    return Colormap(rgba, name="wsi-xai sequential", display_name="viridis, faint to full")


def class_colour(index: int) -> tuple[float, float, float]:
    """Colour of the class at ``index``; the palette repeats after six."""
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]


def label_colours(groups: int, per_group: int) -> DirectLabelColormap:
    """Labels 1 to ``per_group`` in the first colour, the next as many in the second, and so on.

    Fixed for all labels there can ever be: exchanging a colormap costs far more than new data.
    """
    from napari.utils.colormaps import DirectLabelColormap

    clear = np.zeros(4, dtype=np.float32)
    colours: dict[int | None, NDArray[np.float32]] = {None: clear, 0: clear}
    for label in range(1, groups * per_group + 1):
        colour = class_colour((label - 1) // per_group)
        colours[label] = np.array([*colour, 1.0], dtype=np.float32)
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

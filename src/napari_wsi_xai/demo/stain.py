"""Colour of a stained slide: optical densities to light (Beer-Lambert)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.demo.noise import uniform

__all__ = ["Stain", "slide_stain", "tinted"]

Floats = NDArray[np.float32]

HAEMATOXYLIN = ((0.65, 0.70, 0.29), (0.563, 0.720, 0.406))
EOSIN = ((0.07, 0.99, 0.11), (0.216, 0.801, 0.558))
"""Optical density in red, green, blue of unit stain: Ruifrok & Johnston (2001), Macenko (2009)."""
EOSIN_SHADE = 0.95  # from the first towards the second; the first alone is nearly magenta
HAEMATOXYLIN_SHADE = 0.45
TINT = (1.0, 0.975, 0.90)
"""What is left of red, green and blue in the light of a yellowish scanner."""


@dataclass(frozen=True)
class Stain:
    """Stain vectors and light of one slide.

    Attributes
    ----------
    haematoxylin, eosin
        Optical density per unit of stain in red, green, blue (natural logarithm), the slide's
        staining strength included.
    white
        Light through bare glass, 0..255 in red, green, blue.
    """

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    white: tuple[float, float, float]

    def transmit(self, haematoxylin: Floats, eosin: Floats, grain: Floats) -> NDArray[np.uint8]:
        """Light through the tissue: ``I = I_0 exp(-(h H + e E))`` in each channel, plus noise.

        Parameters
        ----------
        haematoxylin, eosin
            Amount of each stain (height, width).
        grain
            The camera's noise (height, width), unit spread.
        """
        image = np.empty((*eosin.shape, 3), dtype=np.uint8)
        for channel in range(3):
            density = haematoxylin * np.float32(-self.haematoxylin[channel])
            density -= eosin * np.float32(self.eosin[channel])
            light = np.exp(density, out=density)
            light *= np.float32(self.white[channel])
            light += np.float32(1.6) * grain
            np.clip(light, 0, 255, out=light)
            image[..., channel] = light
        return image

    def glass(self, grain: Floats) -> NDArray[np.uint8]:
        """Bare glass."""
        image = np.empty((*grain.shape, 3), dtype=np.uint8)
        for channel in range(3):
            light = np.float32(self.white[channel]) + np.float32(1.6) * grain
            image[..., channel] = np.clip(light, 0, 255)
        return image


def slide_stain(seed: int) -> Stain:
    """Stain of a slide: hue, strength and light vary from slide to slide."""
    draw = uniform(seed, 10, np.arange(8))

    def vector(pair: tuple[tuple[float, ...], ...], shade: float, strength: float) -> list[float]:
        first, second = np.array(pair[0]), np.array(pair[1])
        mixed = first + shade * (second - first)
        return [float(part) for part in mixed / np.linalg.norm(mixed) * strength]

    h = vector(HAEMATOXYLIN, HAEMATOXYLIN_SHADE + 0.5 * (draw[0] - 0.5), 0.88 + 0.3 * draw[1])
    e = vector(EOSIN, EOSIN_SHADE + 0.4 * (draw[2] - 0.5), 0.85 + 0.35 * draw[3])
    white = [240 + 8 * float(draw[4]), 239 + 8 * float(draw[5]), 240 + 7 * float(draw[6])]
    return Stain((h[0], h[1], h[2]), (e[0], e[1], e[2]), (white[0], white[1], white[2]))


def tinted(stain: Stain) -> Stain:
    """The same stain in the light of a scanner that is not white-balanced."""
    red, green, blue = (white * left for white, left in zip(stain.white, TINT, strict=True))
    return replace(stain, white=(red, green, blue))

"""Any rectangle of a demo slide as an RGB image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_wsi_xai.demo.cells import (
    BEND,
    FIBRE_BEND,
    GLAND_WALL,
    VESSEL_WALL,
    Population,
    populations,
)
from napari_wsi_xai.demo.ink import Ink, draw_ink
from napari_wsi_xai.demo.layout import FewNests, Layout, lay_out
from napari_wsi_xai.demo.noise import Lattice, noise_field, periodic_texture, uniform, wrapped
from napari_wsi_xai.demo.nuclei import jittered_points, set_stamps, stamps
from napari_wsi_xai.demo.stain import Stain, slide_stain, tinted
from napari_wsi_xai.geometry import Region

__all__ = ["Scene"]

Floats = NDArray[np.float32]

CLOUDS, EDGE, PATCHY, SPLIT, ADIPOCYTE, PLACE = range(3000, 3600, 100)
PIECE_PX = 512  # longest edge computed at once: its fields fit into the cache
FAR = 60.0  # px beyond which the distance to an object does not matter


def _ramp(values: Floats, low: float, high: float) -> Floats:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = np.clip((values - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _blend(ground: Floats, other: Floats | float, share: Floats) -> None:
    """Mix ``share`` of another density into ``ground``, in place."""
    ground += (other - ground) * share


@dataclass(frozen=True)
class Scene:
    """A slide that exists only as a function of position.

    Parameters
    ----------
    seed
        All that is random: layout, cells, stain.
    shape
        (height, width) in level-0 pixels at 0.5 micrometres.
    tumour
        Whether the nests are there; everything else is the same without them.
    few_nests
        Number and size of the nests, where they are few.
    pen
        Whether somebody has drawn on the slide.
    tint
        Whether a scanner with a yellowish light has read it.
    """

    seed: int
    shape: tuple[int, int]
    tumour: bool = True
    few_nests: FewNests | None = None
    pen: bool = False
    tint: bool = False

    @cached_property
    def layout(self) -> Layout:
        """The large objects."""
        return lay_out(self.seed, self.shape, self.tumour, self.few_nests)

    @cached_property
    def stain(self) -> Stain:
        """The slide's stain, and the light it is seen in."""
        stain = slide_stain(self.seed)
        return tinted(stain) if self.tint else stain

    @cached_property
    def ink(self) -> Ink | None:
        """What was drawn on the slide."""
        return draw_ink(self.seed, self.layout) if self.pen else None

    def nuclei(self, region: Region) -> list[Population]:
        """Nuclei whose centres lie within 32 px of a region, by population."""
        return list(populations(self.layout, self.seed, region))

    def render(self, region: Region) -> NDArray[np.uint8]:
        """Pixels of a region, (height, width, 3) uint8 RGB.

        A pixel's value depends on its position alone, not on the region it is asked in. Positions
        outside ``shape`` hold glass.
        """
        image = np.empty((*region.shape, 3), dtype=np.uint8)
        for y in range(0, region.height, PIECE_PX):
            for x in range(0, region.width, PIECE_PX):
                height, width = min(PIECE_PX, region.height - y), min(PIECE_PX, region.width - x)
                piece = Region(region.y + y, region.x + x, height, width)
                pixels = self._render_piece(piece)
                image[y : y + height, x : x + width] = (
                    self.ink.over(pixels, piece, self.seed) if self.ink else pixels
                )
        return image

    def _render_piece(self, region: Region) -> NDArray[np.uint8]:
        depth = self.layout.tissue.depth_field(region, FAR)
        grain = wrapped(periodic_texture(11, ((0.7, 0.7),)), region, self._place(0))
        if depth is None:
            return self.stain.glass(grain)
        fine = wrapped(periodic_texture(12, ((1.2, 1.2), (3.5, 3.5))), region, self._place(1))
        clouds = noise_field(region, 90, self.seed, CLOUDS)
        frayed = depth + 9 * noise_field(region, 40, self.seed, EDGE) + 3 * fine
        cover = _ramp(frayed, 0.0, 5.0)
        if not cover.any():
            return self.stain.glass(grain)
        haematoxylin, eosin = self._stroma(region, fine, clouds)
        self._fat(region, haematoxylin, eosin)
        self._nests(region, haematoxylin, eosin, fine, clouds)
        self._glands(region, haematoxylin, eosin, fine, clouds)
        self._vessels(region, haematoxylin, eosin)
        self._cells(region, haematoxylin, eosin)
        thickness = cover * (1 + 0.07 * noise_field(region, 700, self.seed, CLOUDS + 1))
        return self.stain.transmit(haematoxylin * thickness, eosin * thickness, grain)

    def _place(self, use: int) -> tuple[int, int]:
        """Where a periodic texture begins on this slide."""
        y, x = (uniform(self.seed, PLACE, use, np.arange(2)) * 1024).astype(int).tolist()
        return y, x

    def _stroma(self, region: Region, fine: Floats, clouds: Floats) -> tuple[Floats, Floats]:
        """Collagen: fibres along the level lines of a potential, split by clefts where loose."""
        fibres = self._fibres(region)
        loose = _ramp(noise_field(region, 330, self.seed, PATCHY), -0.1, 0.9)
        eosin = 0.52 - 0.14 * loose + (0.085 + 0.05 * loose) * fibres
        eosin += 0.035 * clouds + 0.02 * fine
        cleft = _ramp(-fibres - 1.3 + 0.9 * loose + 0.3 * clouds, 0.0, 0.8)
        eosin *= 1 - (0.35 + 0.55 * loose) * cleft
        haematoxylin = np.maximum(0.06 + 0.025 * fibres + 0.02 * clouds, 0) * (1 - 0.9 * cleft)
        return haematoxylin, eosin

    def _fibres(self, region: Region) -> Floats:
        """Texture drawn out along the fibres, zero mean and unit spread."""
        tilt = float(uniform(self.seed, BEND, np.array(0))) * np.pi
        y = np.arange(region.y, region.y + region.height, dtype=np.float32)[:, None]
        x = np.arange(region.x, region.x + region.width, dtype=np.float32)[None, :]
        across = y * np.float32(np.sin(tilt)) + x * np.float32(np.cos(tilt))
        along = y * np.float32(np.cos(tilt)) - x * np.float32(np.sin(tilt))
        for octave, (spacing, amplitude) in enumerate(FIBRE_BEND):
            bend = noise_field(region, spacing, self.seed, BEND + 1 + octave)
            across += np.float32(amplitude) * bend
            along += np.float32(0.3 * amplitude) * bend
        across += 6 * noise_field(region, 36, self.seed, BEND + 9)
        texture = periodic_texture(13, ((3.0, 30.0), (7.0, 70.0), (18.0, 90.0)))
        # Two texels a pixel across the fibres, one along: the nearest texel is smooth enough.
        index = (across * 2).astype(np.int32) & 1023
        index <<= 10
        index |= along.astype(np.int32) & 1023
        return np.take(texture.ravel(), index)

    def _fat(self, region: Region, haematoxylin: Floats, eosin: Floats) -> None:
        """Empty fat cells with thin walls: where the two nearest cell centres are equally far."""
        depth = self.layout.fat.depth_field(region, FAR)
        if depth is None:
            return
        y, x, _ = jittered_points(region, 300, 96.0, 30.0, self.seed, ADIPOCYTE)
        lattice = Lattice(region, 4)
        rows, columns = np.broadcast_arrays(*lattice.nodes())
        nearest, _ = cKDTree(np.stack([y, x], axis=1)).query(
            np.stack([rows.ravel() * 4.0, columns.ravel() * 4.0], axis=1), k=2
        )
        wall = lattice.upsample((nearest[:, 1] - nearest[:, 0]).reshape(rows.shape))
        hole = _ramp(depth, 4, 9) * _ramp(wall, 3.5, 8.0)
        eosin *= 1 - 0.97 * hole
        haematoxylin *= 1 - hole

    def _nests(
        self, region: Region, haematoxylin: Floats, eosin: Floats, fine: Floats, clouds: Floats
    ) -> None:
        """Cytoplasm of nests, greyish purple, here and there shrunken off the stroma."""
        depth = self.layout.solid.depth_field(region, FAR)
        if depth is None:
            return
        shrunken = _ramp(depth, -13, -7) - _ramp(depth, -5, 1)
        shrunken *= _ramp(noise_field(region, 110, self.seed, SPLIT), 0.0, 0.7)
        eosin *= 1 - 0.85 * shrunken
        haematoxylin *= 1 - 0.85 * shrunken
        share = _ramp(depth, -4, 3)
        _blend(eosin, 0.40 + 0.05 * fine + 0.05 * clouds, share)
        _blend(haematoxylin, 0.26 + 0.05 * fine + 0.05 * clouds, share)

    def _glands(
        self, region: Region, haematoxylin: Floats, eosin: Floats, fine: Floats, clouds: Floats
    ) -> None:
        """Columnar epithelium around a pale lumen with wisps of secretion."""
        depth = self.layout.glands.depth_field(region, FAR)
        if depth is None:
            return
        share = _ramp(depth, -2, 2)
        _blend(eosin, 0.36 + 0.03 * fine + 0.03 * clouds, share)
        _blend(haematoxylin, 0.14 + 0.03 * fine, share)
        eosin += 0.16 * (_ramp(depth, -5, -1) - _ramp(depth, -1, 2))  # basement membrane
        edge = depth - GLAND_WALL + 2.5 * clouds
        eosin += 0.14 * (_ramp(edge, -6, -1) - _ramp(edge, -1, 2))  # brush border
        lumen = _ramp(edge, -1, 3)
        _blend(eosin, 0.07 * _ramp(clouds + 0.4 * fine, 0.3, 1.2) + 0.012, lumen)
        _blend(haematoxylin, 0.05 * _ramp(clouds + 0.4 * fine, 0.3, 1.2), lumen)

    def _vessels(self, region: Region, haematoxylin: Floats, eosin: Floats) -> None:
        """A dense wall around an open lumen."""
        depth = self.layout.vessels.depth_field(region, FAR)
        if depth is None:
            return
        _blend(eosin, 0.66, 0.8 * _ramp(depth, -6, 0))
        lumen = _ramp(depth, VESSEL_WALL - 2, VESSEL_WALL + 2)
        _blend(eosin, 0.03, lumen)
        _blend(haematoxylin, 0.01, lumen)

    def _cells(self, region: Region, haematoxylin: Floats, eosin: Floats) -> None:
        """Set the nuclei; they displace the eosin under them. Red cells hold eosin only."""
        nuclei, blood = np.zeros_like(eosin), np.zeros_like(eosin)
        for population in populations(self.layout, self.seed, region):
            canvas = blood if population.kind == "erythrocyte" else nuclei
            bank = stamps(population.kind)
            set_stamps(canvas, region, bank, population.y, population.x, population.which)
        np.maximum(eosin, blood, out=eosin)
        eosin *= 1 - 0.55 * _ramp(nuclei, 0.05, 0.7)
        np.maximum(haematoxylin, nuclei, out=haematoxylin)

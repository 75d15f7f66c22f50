"""A picture of the result: the slide beside its tile scores, with ground truth and scale bar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from napari_wsi_xai.slides import Slide
    from napari_wsi_xai.tiles import TileGrid

__all__ = ["draw_overview", "score_colours"]

VIRIDIS = (
    (68, 1, 84),
    (72, 40, 120),
    (62, 74, 137),
    (49, 104, 142),
    (38, 130, 142),
    (31, 158, 137),
    (53, 183, 121),
    (109, 205, 89),
    (180, 222, 44),
    (253, 231, 37),
)
"""Ten even steps of viridis (van der Walt & Smith, CC0): even steps look even to every eye."""

PANEL_PX = 900  # longest side of a panel
OVERSAMPLE = 2  # everything is drawn this much larger, then reduced: smooth lines
GAP_PX = 24
HEAD_PX = 66
FOOT_PX = 92
OPACITY = 0.64
INK = (32, 32, 36)

Bytes = NDArray[np.uint8]


def score_colours(values: ArrayLike, limits: tuple[float, float]) -> Bytes:
    """Values (...,) to viridis (..., 3) uint8; beyond the limits the end colours."""
    low, high = limits
    steps = np.linspace(0, 1, len(VIRIDIS))
    t = np.clip((np.asarray(values, dtype=np.float64) - low) / max(high - low, 1e-12), 0, 1)
    channels = [np.interp(t, steps, column) for column in np.array(VIRIDIS, dtype=float).T]
    return np.asarray(np.rint(np.stack(channels, axis=-1)), dtype=np.uint8)


def draw_overview(
    slide: Slide,
    tile_map: NDArray[np.float32],
    grid: TileGrid,
    truth: Sequence[shapely.Polygon],
    path: Path,
    headings: tuple[str, str],
    legend: tuple[str, str, str],
) -> Path:
    """Write a PNG of two panels: the slide, and the tile map over the slide in grey.

    Parameters
    ----------
    slide
        The slide; its mpp must be known.
    tile_map
        (rows, cols) scores, NaN where there is none.
    grid
        The tiles of the map.
    truth
        Outlines drawn on both panels, (x, y) level-0 pixels.
    path
        The PNG.
    headings
        Of the panels.
    legend
        Words under the colour bar: what it shows, its low end, its high end.
    """
    from PIL import Image, ImageDraw

    picture, scale = _thumbnail(slide, PANEL_PX * OVERSAMPLE)
    height, width = picture.shape[:2]
    finite = tile_map[np.isfinite(tile_map)]
    limits = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    s = OVERSAMPLE
    canvas = Image.new(
        "RGB", (2 * width + 3 * GAP_PX * s, height + (HEAD_PX + FOOT_PX) * s), (255, 255, 255)
    )
    pen = ImageDraw.Draw(canvas)
    panels = (picture, _overlaid(picture, scale, tile_map, grid, limits))
    for number, (panel, heading) in enumerate(zip(panels, headings, strict=True)):
        left, top = GAP_PX * s + number * (width + GAP_PX * s), HEAD_PX * s
        canvas.paste(Image.fromarray(panel), (left, top))
        pen.rectangle((left - 1, top - 1, left + width, top + height), outline=(205, 205, 210))
        pen.text((left, top - 14 * s), heading, fill=INK, font=_font(22), anchor="ls")
        _outlines(pen, truth, scale, (left, top))
    foot = (HEAD_PX + 18) * s + height
    _scale_bar(pen, slide.require_mpp()[1] * scale, width, (GAP_PX * s, foot))
    _colour_bar(canvas, pen, limits, legend, (2 * GAP_PX * s + width, foot), width)
    reduced = canvas.resize((canvas.width // s, canvas.height // s), Image.Resampling.LANCZOS)
    _save(reduced, path)
    return path


def _save(image: Image, path: Path) -> None:
    unfinished = path.with_name(f".{path.name}.partial")
    image.save(unfinished, format="PNG", optimize=True)
    unfinished.replace(path)


def _font(size: int) -> FreeTypeFont | ImageFont:
    from PIL.ImageFont import load_default

    return load_default(size=size * OVERSAMPLE)


def _thumbnail(slide: Slide, longest_px: int) -> tuple[Bytes, float]:
    """The slide with its longest side as given, and level-0 pixels per pixel of it."""
    from PIL import Image

    height, width = slide.shape
    scale = max(height, width) / longest_px
    fine = [n for n, downsample in enumerate(slide.downsamples) if downsample <= scale * 1.01]
    level = fine[-1] if fine else 0
    rows, columns = slide.levels[level].shape[:2]
    pixels = slide.read_region((0, 0), (rows, columns), level=level)
    size = (round(width / scale), round(height / scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)), scale


def _overlaid(
    picture: Bytes,
    scale: float,
    tile_map: NDArray[np.float32],
    grid: TileGrid,
    limits: tuple[float, float],
) -> Bytes:
    """The map over the picture in grey, tile by tile."""
    grey = picture @ np.array([0.3, 0.59, 0.11])
    panel = np.repeat(grey[..., None], 3, axis=2)
    rows = _tile_of(picture.shape[0], scale, grid.origin_level0[0], grid.stride_level0[0])
    columns = _tile_of(picture.shape[1], scale, grid.origin_level0[1], grid.stride_level0[1])
    padded = np.pad(tile_map, ((0, 1), (0, 1)), constant_values=np.nan)  # index -1: no tile
    in_rows = np.where((rows >= 0) & (rows < tile_map.shape[0]), rows, -1)
    in_columns = np.where((columns >= 0) & (columns < tile_map.shape[1]), columns, -1)
    values = padded[in_rows[:, None], in_columns[None, :]]
    shown = np.isfinite(values)
    colours = score_colours(values[shown], limits)
    panel[shown] = (1 - OPACITY) * panel[shown] + OPACITY * colours
    return np.asarray(np.rint(panel), dtype=np.uint8)


def _tile_of(length: int, scale: float, origin: float, stride: float) -> NDArray[np.intp]:
    """Tile row (or column) under the middle of each pixel."""
    level0 = (np.arange(length) + 0.5) * scale
    return np.asarray(np.floor((level0 - origin) / stride), dtype=np.intp)


def _outlines(
    pen: ImageDraw, truth: Sequence[shapely.Polygon], scale: float, corner: tuple[int, int]
) -> None:
    """Black lines with a white rim, to be seen on any colour."""
    for width, colour in ((5, (255, 255, 255)), (2, (0, 0, 0))):
        for polygon in truth:
            points = shapely.get_coordinates(polygon.exterior) / scale + corner
            pen.line([tuple(point) for point in points], fill=colour, width=width, joint="curve")


def _scale_bar(pen: ImageDraw, um_per_px: float, width: int, corner: tuple[int, int]) -> None:
    """A bar of 1, 2 or 5 times a power of ten micrometres, about a fifth of the panel."""
    wanted = um_per_px * width / 5
    power = 10 ** math.floor(math.log10(wanted))
    length_um = max(step * power for step in (1, 2, 5) if step * power <= wanted)
    x, y, s = *corner, OVERSAMPLE
    end = x + length_um / um_per_px
    pen.rectangle((x, y, end, y + 5 * s), fill=INK)
    label = f"{length_um / 1000:g} mm"  # the built-in font has no micro sign
    pen.text((x, y + 14 * s), label, fill=INK, font=_font(18), anchor="lt")
    key = "outlined: ground truth"
    pen.line((end + 40 * s, y + 3 * s, end + 70 * s, y + 3 * s), fill=INK, width=2 * s)
    pen.text((end + 80 * s, y - 6 * s), key, fill=INK, font=_font(18), anchor="lt")


def _colour_bar(
    canvas: Image,
    pen: ImageDraw,
    limits: tuple[float, float],
    legend: tuple[str, str, str],
    corner: tuple[int, int],
    width: int,
) -> None:
    from PIL import Image

    x, y, s = *corner, OVERSAMPLE
    what, low, high = legend
    ramp = score_colours(np.linspace(*limits, width), limits)
    canvas.paste(Image.fromarray(np.repeat(ramp[None], 14 * s, axis=0)), (x, y))
    text = y + 22 * s
    pen.text((x, text), f"{low} ({limits[0]:.1f})", fill=INK, font=_font(18), anchor="lt")
    pen.text((x + width / 2, text), what, fill=INK, font=_font(18), anchor="mt")
    pen.text((x + width, text), f"{high} ({limits[1]:.1f})", fill=INK, font=_font(18), anchor="rt")

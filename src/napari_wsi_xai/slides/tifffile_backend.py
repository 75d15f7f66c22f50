"""TIFF slides read through tifffile: OME-TIFF, QPTIFF, pyramidal TIFF."""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_wsi_xai.errors import UnsupportedSlideError
from napari_wsi_xai.geometry import Mpp, Region
from napari_wsi_xai.slides.backend import Description, Level, Pixels, composite, one_line
from napari_wsi_xai.slides.fingerprint import fingerprint_files
from napari_wsi_xai.slides.resolution import mpp_from_file, mpp_from_resolution, unit_um
from napari_wsi_xai.slides.tiff_structure import check_directories
from napari_wsi_xai.slides.tiff_tiles import TiffTiles, check_page

__all__ = ["TifffileBackend"]

ASSOCIATED = ("label", "macro", "thumbnail", "overview")
TEXT_LIMIT = 4000

# What is wrong with a file is told by the error raised here; without any handler Python would
# print tifffile's own remarks to the user as well.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class TifffileBackend:
    """A pyramidal 8-bit RGB TIFF.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    UnsupportedSlideError
        Not a TIFF, damaged, or not 8-bit RGB.
    """

    kind = "tifffile"

    def __init__(self, path: Path) -> None:
        import tifffile

        self._path = path
        check_directories(path)
        try:
            with tifffile.TiffFile(path) as tiff:
                series = _largest(tiff)
                pages = [_single_page(level) for level in series.levels]
                for page in pages:
                    check_page(page.keyframe)
                self._associated = _associated(tiff, series)
                self._tiles = TiffTiles(path, pages)
                self.description = self._describe(tiff, series, pages[0].keyframe)
        except UnsupportedSlideError:
            raise
        except Exception as error:  # damaged files raise all sorts of things in the parser
            raise UnsupportedSlideError(
                f"it cannot be opened as a TIFF ({one_line(error)})"
            ) from error

    def _describe(self, tiff: Any, series: Any, page: Any) -> Description:
        shapes = self._tiles.shapes
        rows, columns = shapes[0]
        levels = tuple(
            Level(shape, (rows / shape[0] + columns / shape[1]) / 2 if i else 1.0, tile)
            for i, (shape, tile) in enumerate(zip(shapes, self._tiles.tile_shapes, strict=True))
        )
        ome = _ome_image(tiff, series)
        return Description(
            levels=levels,
            mpp=_ome_mpp(ome) or _tag_mpp(page),
            bounds=Region(0, 0, rows, columns),
            vendor="ome" if tiff.is_ome else ("perkinelmer" if tiff.is_qpi else None),
            objective_power=_ome_power(tiff, ome),
            properties=_properties(page, ome),
            associated={
                name: (page.keyframe.imagelength, page.keyframe.imagewidth)
                for name, page in self._associated.items()
            },
        )

    def read(self, level: int, y: int, x: int, height: int, width: int) -> Pixels:
        """Pixels of a rectangle wholly inside ``level``."""
        return self._tiles.read(level, y, x, height, width)

    def read_associated(self, name: str) -> Pixels:
        """Decode label, macro or thumbnail."""
        import tifffile

        with tifffile.TiffFile(self._path) as tiff:
            image = np.asarray(_associated(tiff, _largest(tiff))[name].asarray())
        if image.dtype != np.uint8:
            raise UnsupportedSlideError(f"the {name} image is {image.dtype}, not 8-bit.")
        if image.ndim == 2:
            image = np.repeat(image[..., np.newaxis], 3, axis=2)
        if image.shape[-1] == 4:
            return composite(image[..., :3], image[..., 3], (255, 255, 255), premultiplied=False)
        return np.ascontiguousarray(image[..., :3])

    def fingerprint(self) -> str:
        """Digest of the file's size, head, middle and tail."""
        return fingerprint_files([("", self._path)])

    def close(self) -> None:
        """Let the file go."""
        self._tiles.close()


def _largest(tiff: Any) -> Any:
    """The series with the most pixels: the slide itself, whatever else the file holds."""
    if not tiff.series:
        raise UnsupportedSlideError("the TIFF holds no image")
    return max(tiff.series, key=lambda s: s.keyframe.imagelength * s.keyframe.imagewidth)


def _single_page(level: Any) -> Any:
    """The one page of a pyramid level."""
    if len(level.pages) != 1:
        sizes = ", ".join(f"{a}={n}" for a, n in zip(level.axes, level.shape, strict=True))
        raise UnsupportedSlideError(
            f"the image has {len(level.pages)} planes ({sizes}), as fluorescence images or stacks "
            "do: one plane of 8-bit RGB or RGBA is supported."
        )
    return level.pages[0]


def _associated(tiff: Any, slide: Any) -> Mapping[str, Any]:
    """First pages of the named small images beside the slide."""
    images: dict[str, Any] = {}
    for series in tiff.series:
        name = str(series.name or "").strip().lower()
        known = next((word for word in ASSOCIATED if word in name), None)
        if known and series is not slide and len(series.pages) == 1:
            images.setdefault(known, series.pages[0])
    return images


def _ome_image(tiff: Any, series: Any) -> ElementTree.Element | None:
    """The OME-XML ``Image`` element of ``series``."""
    if not tiff.is_ome or not tiff.ome_metadata:
        return None
    try:
        root = ElementTree.fromstring(tiff.ome_metadata)
    except ElementTree.ParseError:
        return None
    images = [e for e in root if e.tag.endswith("}Image")]
    index = next(i for i, s in enumerate(tiff.series) if s is series)
    return images[index] if index < len(images) else None


def _ome_mpp(image: ElementTree.Element | None) -> Mpp | None:
    """PhysicalSizeY and X; the OME schema's default unit is the micrometre."""
    pixels = None if image is None else image.find("{*}Pixels")
    if pixels is None:
        return None
    sizes: list[float | None] = []
    for axis in "YX":
        um = unit_um(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        size = pixels.get(f"PhysicalSize{axis}")
        sizes.append(float(size) * um if size and um else None)
    return mpp_from_file(sizes[0], sizes[1])


def _ome_power(tiff: Any, image: ElementTree.Element | None) -> float | None:
    """NominalMagnification of the objective the image refers to."""
    settings = None if image is None else image.find("{*}ObjectiveSettings")
    if settings is None:
        return None
    root = ElementTree.fromstring(tiff.ome_metadata)
    for objective in root.iterfind(".//{*}Objective"):
        power = objective.get("NominalMagnification")
        if objective.get("ID") == settings.get("ID") and power:
            return float(power)
    return None


def _tag_mpp(page: Any) -> Mpp | None:
    """From the resolution tags, where they can only mean a microscope's."""

    def per_unit(code: int) -> float | None:
        tag = page.tags.get(code)
        if tag is None:
            return None
        numerator, denominator = tag.value
        return numerator / denominator if denominator else None

    unit = page.tags.get(296)
    # The TIFF standard's default unit is the inch, but a file that says nothing is no statement.
    return mpp_from_resolution(per_unit(283), per_unit(282), None if unit is None else unit.value)


def _properties(page: Any, ome: ElementTree.Element | None) -> dict[str, str]:
    """Text tags of the first page, and the OME image's name."""
    texts = {
        f"tiff.{page.tags[code].name}": str(page.tags[code].value)[:TEXT_LIMIT]
        for code in (270, 271, 272, 305, 306, 282, 283, 296)
        if page.tags.get(code) is not None
    }
    if ome is not None and ome.get("Name"):
        texts["ome.Name"] = str(ome.get("Name"))
    return texts

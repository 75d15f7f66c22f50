"""Slides for benchmarks: the demo's, and a larger one made of its compressed tiles."""

from __future__ import annotations

import itertools
from pathlib import Path

import tifffile

from napari_wsi_xai.demo import make_demo_slide

__all__ = ["demo_slide", "mosaic_slide"]

BASE_PX = 10240
"""A multiple of every level's tile size, so that copies join without a new compression."""


def demo_slide(folder: Path) -> Path:
    """The 10k x 10k slide, made once."""
    path = folder / "demo-10k.tiff"
    if not path.exists():
        make_demo_slide(path, seed=1, shape=(BASE_PX, BASE_PX))
    return path


def mosaic_slide(source: Path, path: Path, copies: int) -> Path:
    """``copies`` x ``copies`` of a tiled JPEG slide side by side, byte for byte, all levels."""
    if path.exists():
        return path
    partial = path.with_suffix(".partial")
    with tifffile.TiffFile(source) as tiff, tifffile.TiffWriter(partial, bigtiff=True) as writer:
        for number, page in enumerate(tiff.pages):
            across = page.imagewidth // page.tilewidth
            down = page.imagelength // page.tilelength
            if across * page.tilewidth != page.imagewidth:
                break  # a level that does not divide: the pyramid ends here
            rows = [
                list(itertools.islice(tiles, across))
                for tiles in [iter(_encoded(tiff, page))]
                for _ in range(down)
            ]
            writer.write(
                (
                    tile
                    for _ in range(copies)
                    for row in rows
                    for _ in range(copies)
                    for tile in row
                ),
                shape=(page.imagelength * copies, page.imagewidth * copies, 3),
                dtype="uint8",
                tile=(page.tilelength, page.tilewidth),
                photometric=page.photometric.name,
                compression="jpeg",
                subsampling=page.tags["YCbCrSubSampling"].value,
                resolution=page.resolution,
                resolutionunit=page.resolutionunit,
                subfiletype=1 if number else 0,
                metadata=None,
                description=page.description if not number else None,
                extratags=_jpeg_tables(page),
            )
    partial.rename(path)
    return path


def _encoded(tiff: tifffile.TiffFile, page: tifffile.TiffPage):
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        tiff.filehandle.seek(offset)
        yield tiff.filehandle.read(size)


def _jpeg_tables(page: tifffile.TiffPage):
    tables = page.jpegtables
    return [] if tables is None else [(347, 7, len(tables), tables, True)]

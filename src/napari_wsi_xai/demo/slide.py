"""Make a procedural H&E-like slide with exact ground truth: a pyramidal TIFF, streamed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_wsi_xai.demo.render import Scene
from napari_wsi_xai.demo.tile_spool import TileSpool
from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.geometry import Region

__all__ = [
    "DEMO_MPP",
    "DOWNSAMPLES",
    "DemoSlide",
    "existing_demo_slide",
    "existing_scene",
    "make_demo_slide",
    "write_scene",
]

GENERATOR = 1
"""Raised with every change of what a seed looks like; written into the files."""

DEMO_MPP = 0.5
"""Micrometres per pixel at which cells have the size of real ones."""
DOWNSAMPLES = (1, 2, 4, 8)
TILE_PX = 256
BLOCK_PX = TILE_PX * DOWNSAMPLES[-1]  # one tile of the coarsest level
QUALITY = 90
SMALLEST_PX = 1024

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class DemoSlide:
    """A demo slide and what is true of it.

    Attributes
    ----------
    path
        The TIFF.
    truth
        Outlines of the tumour nests, (x, y) level-0 pixels: tumour nuclei have their centres in
        them and nowhere else. Empty for a normal slide.
    label
        ``"tumor"`` or ``"normal"``.
    """

    path: Path
    truth: list[shapely.Polygon] = field(repr=False)
    label: str


def make_demo_slide(
    path: str | os.PathLike[str],
    seed: int = 0,
    shape: tuple[int, int] = (8000, 8000),
    tumour: bool = True,
    mpp: float = DEMO_MPP,
    progress: Callable[[int, int], None] | None = None,
) -> DemoSlide:
    """Write a procedural slide as a tiled JPEG TIFF pyramid with four levels.

    The same arguments give the same file, byte for byte. Memory is bounded by one row of
    2048 px blocks, compressed, whatever the slide's size.

    Parameters
    ----------
    path
        Where to write; the file appears when it is whole.
    seed
        Layout, cells and stain.
    shape
        (height, width) of level 0 in pixels, each at least 1024.
    tumour
        Whether the tumour nests are there; all else is the same without them.
    mpp
        Micrometres per pixel written into the file. Cells have real sizes at 0.5.
    progress
        Called with (blocks done, blocks in all), from the thread that called.

    Raises
    ------
    BadArgumentError
        A side is under 1024 px, or mpp is not positive.
    """
    return write_scene(path, Scene(seed, shape, tumour), mpp, progress)


def write_scene(
    path: str | os.PathLike[str],
    scene: Scene,
    mpp: float = DEMO_MPP,
    progress: Callable[[int, int], None] | None = None,
) -> DemoSlide:
    """:func:`make_demo_slide` for any scene."""
    path, shape = Path(path), scene.shape
    if min(shape) < SMALLEST_PX:
        raise BadArgumentError(
            f"a demo slide of {shape[0]} x {shape[1]} px is too small; "
            f"each side needs at least {SMALLEST_PX} px."
        )
    if not mpp > 0:
        raise BadArgumentError(f"mpp={mpp} is not above 0; give micrometres per pixel, e.g. 0.5.")
    partial = path.with_name(path.name + ".partial")
    try:
        _write_pyramid(partial, scene, mpp, progress or (lambda done, total: None))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return _demo_slide(path, scene)


def existing_demo_slide(
    path: str | os.PathLike[str],
    seed: int,
    shape: tuple[int, int],
    tumour: bool = True,
    mpp: float = DEMO_MPP,
) -> DemoSlide | None:
    """What :func:`make_demo_slide` would make, where it has done so before; else ``None``.

    Raises
    ------
    BadArgumentError
        Another file is at the path, such as the slide of another seed.
    """
    return existing_scene(path, Scene(seed, shape, tumour), mpp)


def existing_scene(
    path: str | os.PathLike[str], scene: Scene, mpp: float = DEMO_MPP
) -> DemoSlide | None:
    """:func:`existing_demo_slide` for any scene."""
    import tifffile

    path, shape = Path(path), scene.shape
    if not path.exists():
        return None
    try:
        with tifffile.TiffFile(path) as tif:
            found = (tif.pages.first.description, tuple(tif.pages.first.shape[:2]))
    except (OSError, tifffile.TiffFileError, IndexError):
        found = ("no readable TIFF", (0, 0))
    if found != (_description(scene, mpp), tuple(shape)):
        raise BadArgumentError(
            f"{path} is not the demo slide of seed {scene.seed} and {shape[0]} x {shape[1]} px but "
            f"{found[0]!r}; choose another folder or delete it."
        )
    return _demo_slide(path, scene)


def _demo_slide(path: Path, scene: Scene) -> DemoSlide:
    label = "tumor" if scene.tumour else "normal"
    return DemoSlide(path, scene.layout.nests.polygons(), label)


def _write_pyramid(
    path: Path, scene: Scene, mpp: float, progress: Callable[[int, int], None]
) -> None:
    import tifffile

    spools = [TileSpool() for _ in DOWNSAMPLES[1:]]
    try:
        with tifffile.TiffWriter(path, bigtiff=scene.shape[0] * scene.shape[1] > 2e9) as tif:
            for level, downsample in enumerate(DOWNSAMPLES):
                tiles = spools[level - 1] if level else _level0_tiles(scene, spools, progress)
                per_centimetre = 1e4 / (mpp * downsample)
                tif.write(
                    iter(tiles),
                    shape=(*_level_shape(scene.shape, downsample), 3),
                    dtype=np.uint8,
                    photometric="ycbcr",
                    subsampling=(2, 2),
                    tile=(TILE_PX, TILE_PX),
                    compression="jpeg",
                    subfiletype=1 if level else 0,
                    resolution=(per_centimetre, per_centimetre),
                    resolutionunit="CENTIMETER",
                    description=_description(scene, mpp) if not level else None,
                    metadata=None,
                    software=False,
                )
    finally:
        for spool in spools:
            spool.file.close()


def _description(scene: Scene, mpp: float) -> str:
    kind = "tumour" if scene.tumour else "normal"
    name = f"napari-wsi-xai procedural demo slide {GENERATOR}"
    parts = [name, f"seed = {scene.seed}", f"kind = {kind}", f"MPP = {mpp:g}"]
    if few := scene.few_nests:
        parts.append(f"nests = {few.count}, mimics = {few.mimics}, radii = {few.radii_px} px")
    parts += [f"{extra} = yes" for extra in ("pen", "tint") if getattr(scene, extra)]
    return "|".join(parts)


def _level_shape(shape: tuple[int, int], downsample: int) -> tuple[int, int]:
    return -(-shape[0] // downsample), -(-shape[1] // downsample)


def _level0_tiles(
    scene: Scene, spools: list[TileSpool], progress: Callable[[int, int], None]
) -> Iterator[bytes]:
    """Level-0 tiles in the file's order; on the way the coarser ones go to their spools."""
    rows = range(0, scene.shape[0], BLOCK_PX)
    columns = range(0, scene.shape[1], BLOCK_PX)
    total, done = len(rows) * len(columns), 0
    workers = (
        max(1, min(8, len(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else 2
    )
    _ = scene.layout  # laid out once, before threads ask for it
    with ThreadPoolExecutor(workers) as pool:
        for y in rows:
            jobs = [pool.submit(_encode_block, scene, y, x) for x in columns]
            blocks = []
            for job in jobs:
                blocks.append(job.result())
                done += 1
                progress(done, total)
            for level, spool in enumerate(spools, start=1):
                for tile in _row_major([block[level] for block in blocks]):
                    spool.append(tile)
            yield from _row_major([block[0] for block in blocks])


def _row_major(blocks: list[list[list[bytes]]]) -> Iterator[bytes]:
    """Tiles of blocks side by side, each a list of rows of tiles, in the order of a TIFF."""
    for row in range(len(blocks[0])):
        for block in blocks:
            yield from block[row]


def _encode_block(scene: Scene, y: int, x: int) -> list[list[list[bytes]]]:
    """Render a block and compress it: [level][row][column] of JPEG tiles that hold some slide."""
    height, width = min(BLOCK_PX, scene.shape[0] - y), min(BLOCK_PX, scene.shape[1] - x)
    image = scene.render(Region(y, x, height, width))
    levels = []
    for downsample in DOWNSAMPLES:
        if downsample > 1:
            image = _halved(image)
        levels.append(_encode_tiles(image))
    return levels


def _halved(image: Bytes) -> Bytes:
    """Mean of each 2 x 2 pixels; an odd last row or column counts twice."""
    height, width = image.shape[:2]
    if height % 2 or width % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    rows = image[0::2].astype(np.uint16) + image[1::2]
    return np.asarray((rows[:, 0::2] + rows[:, 1::2] + 2) >> 2, dtype=np.uint8)


def _encode_tiles(image: Bytes) -> list[list[bytes]]:
    """Cut into JPEG tiles; the last ones are filled up with their edge pixels."""
    from imagecodecs import jpeg8_encode

    height, width = image.shape[:2]
    pad = ((0, -height % TILE_PX), (0, -width % TILE_PX), (0, 0))
    image = np.pad(image, pad, mode="edge")
    return [
        [
            bytes(
                jpeg8_encode(
                    np.ascontiguousarray(image[y : y + TILE_PX, x : x + TILE_PX]),
                    level=QUALITY,
                    colorspace="rgb",
                    outcolorspace="ycbcr",
                    subsampling="420",
                )
            )
            for x in range(0, width, TILE_PX)
        ]
        for y in range(0, height, TILE_PX)
    ]

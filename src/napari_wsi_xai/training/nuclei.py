"""Bags of tiles around nuclei, as CRCHistoPhenotypes is trained on."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import BadArgumentError, CohortError, StoreError
from napari_wsi_xai.runs import FeatureBag, read_feature_bag, write_feature_bag
from napari_wsi_xai.training.cohort import Cohort
from napari_wsi_xai.training.public_crc import NUCLEI, read_nuclei
from napari_wsi_xai.training.wording import listed

if TYPE_CHECKING:
    from napari_wsi_xai.models import Encoder, EncoderSpec

__all__ = ["NucleusTiles", "encode_nuclei", "nucleus_tiles"]

TILE_PX = 27
"""Edge of a tile in the ABMIL paper."""

MPP = 0.55
"""Micrometres per pixel of the images, as their paper has it."""

NucleusTiles = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]
"""Tiles (n, p, p, 3), their corners (n, 2), yx, pixels of the image, and kinds (n,)."""


def nucleus_tiles(image: str | os.PathLike[str], tile_px: int = TILE_PX) -> NucleusTiles:
    """Tiles around all marked nuclei of an image; kinds are indices into ``NUCLEI``.

    The middle of a tile is the pixel that the nucleus is nearest to. Beyond the image's edge a
    tile shows its mirror image, and its corner lies outside.

    Raises
    ------
    BadArgumentError
        ``tile_px`` is even or below 1, so that no pixel is in the middle.
    CohortError
        The image or a table of nuclei cannot be read.
    """
    if tile_px < 1 or tile_px % 2 == 0:
        raise BadArgumentError(f"tile_px={tile_px} must be an odd number above 0.")
    path = Path(image)
    rgb = _read_bmp(path)
    found = read_nuclei(path)
    places = np.concatenate([found[kind] for kind in NUCLEI])
    kinds = np.repeat(np.arange(len(NUCLEI)), [len(found[kind]) for kind in NUCLEI])
    height, width = rgb.shape[:2]
    centres = np.clip(np.rint(places).astype(np.int64), 0, [height - 1, width - 1])
    half = tile_px // 2
    around = np.pad(rgb, ((half, half), (half, half), (0, 0)), mode="reflect")
    tiles = np.empty((len(centres), tile_px, tile_px, 3), dtype=np.uint8)
    for number, (row, col) in enumerate(centres):
        tiles[number] = around[row : row + tile_px, col : col + tile_px]
    return tiles, centres - half, kinds


def encode_nuclei(
    cohort: Cohort,
    encoder: Encoder | EncoderSpec | str,
    out: str | os.PathLike[str],
    *,
    tile_px: int = TILE_PX,
    device: str = "auto",
) -> Cohort:
    """Encode the tiles around the nuclei of every image into ``<image>.h5``.

    Files of the same encoder and tile size that are there already are left as they are.

    Parameters
    ----------
    cohort
        As ``read_public_set("crc-histophenotypes", ...)`` gives it.
    encoder
        f_e.
    out
        Folder of the feature files.
    tile_px
        Edge of a tile, odd.
    device
        Where the encoder runs.

    Returns
    -------
    Cohort
        The same cases, with feature files.

    Raises
    ------
    CohortError
        Images without a marked nucleus; the message names them.
    """
    from napari_wsi_xai.models import Encoder, build_encoder

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    built = encoder if isinstance(encoder, Encoder) else build_encoder(encoder)
    engine = built.prepare("float32", device)
    about = {
        "encoder": built.name,
        "encoder_hash": built.content_hash,
        "patch_size": tile_px,
        "mpp": MPP,
    }
    cases, empty = [], []
    for case in cohort.cases:
        path = folder / f"{case.slide}.h5"
        if not _made_so(path, about):
            tiles, corners, _ = nucleus_tiles(case.features, tile_px)
            if not len(tiles):
                empty.append(case.slide)
                continue
            bag = FeatureBag(engine.encode(tiles), corners, float(tile_px), about)
            write_feature_bag(bag, path)
        cases.append(replace(case, features=path))
    if empty:
        raise CohortError(f"{listed(empty)} have no marked nucleus: leave them out.")
    return replace(cohort, cases=tuple(cases))


def _made_so(path: Path, about: dict[str, object]) -> bool:
    """Whether the file is there and was made in this way."""
    if not path.is_file():
        return False
    try:
        told = read_feature_bag(path).attributes
    except StoreError:
        return False
    return all(name in told and told[name] == value for name, value in about.items())


def _read_bmp(path: Path) -> NDArray[np.uint8]:
    from imagecodecs import BmpError, bmp_decode

    try:
        rgb = np.asarray(bmp_decode(path.read_bytes()))
    except (OSError, ValueError, BmpError) as error:
        raise CohortError(f"{path} cannot be read as an image: {error}.") from error
    if rgb.ndim == 2:
        rgb = np.repeat(rgb[..., None], 3, axis=2)
    return np.ascontiguousarray(rgb[..., :3], dtype=np.uint8)

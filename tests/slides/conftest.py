"""Real slides in several forms, and small made ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile

CMU_FORMS = (
    "CMU-1-Small-Region.svs",
    "CMU-1-Small-Region.dicom",
    "CMU-1-Small-Region.pyramid.ome.tif",
    "CMU-1-Small-Region_v0.4.ome.zarr",
    "CMU-1-Small-Region_v0.5.ome.zarr",
)
TCGA = "TCGA-CR-7395-01A-01-TS1.svs"


@pytest.fixture(scope="session")
def slides(shared_data: Path) -> Path:
    """Folder of real slides."""
    return shared_data / "slides"


@pytest.fixture(scope="session")
def cmu(slides: Path) -> Path:
    return slides / CMU_FORMS[0]


@pytest.fixture
def noise() -> np.ndarray:
    """An image no two pixels of which can be mistaken for each other, (300, 420, 3) uint8."""
    return np.random.default_rng(5).integers(0, 255, (300, 420, 3), dtype=np.uint8)


def aperio_text(shape: tuple[int, ...], tile: int, more: str = "|AppMag = 20|MPP = 0.25") -> str:
    """The ImageDescription by which OpenSlide knows an Aperio file."""
    height, width = shape[:2]
    return (
        f"Aperio Image Library v11.2.1 \r\n{width}x{height} [0,0 {width}x{height}] "
        f"({tile}x{tile}) Deflate{more}"
    )


@pytest.fixture
def svs_with_gap(tmp_path: Path, noise: np.ndarray) -> Path:
    """An SVS that leaves out the tile at row 0, column 1: OpenSlide shows it transparent."""
    path = tmp_path / "gap.svs"
    tifffile.imwrite(
        path,
        noise,
        tile=(128, 128),
        compression="deflate",
        photometric="rgb",
        description=aperio_text(noise.shape, 128),
        metadata=None,
    )
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page = tiff.pages[0]
        for tag, values in ((325, page.databytecounts), (324, page.dataoffsets)):
            page.tags[tag].overwrite([0 if i == 1 else v for i, v in enumerate(values)])
    return path


@pytest.fixture
def scn(tmp_path: Path, noise: np.ndarray) -> Path:
    """A Leica SCN whose scanned region is a part of the slide: it has bounds."""
    path = tmp_path / "part.scn"
    height, width = noise.shape[:2]
    ns = "http://www.leica-microsystems.com/scn/2010/10/01"
    text = f"""<?xml version="1.0"?><scn xmlns="{ns}">
<collection name="c" sizeX="{width * 1000}" sizeY="{height * 1000}"><barcode>x</barcode>
<image name="i" uuid="u"><creationDate>2020-01-01T00:00:00Z</creationDate>
<device model="Leica SCN400" version="1"/><pixels sizeX="{width}" sizeY="{height}">
<dimension sizeX="{width}" sizeY="{height}" r="0" ifd="0"/></pixels>
<view sizeX="{width * 500}" sizeY="{height * 500}" offsetX="100000" offsetY="50000" spacingZ="0"/>
<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>
<illuminationSettings><numericalAperture>0.4</numericalAperture>
<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings>
</image></collection></scn>"""
    tifffile.imwrite(
        path,
        noise,
        tile=(128, 128),
        compression="deflate",
        photometric="rgb",
        description=text,
        metadata=None,
        bigtiff=True,
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
    )
    return path


@pytest.fixture
def unprivileged() -> Callable[[], object]:
    """Context in which the process has an ordinary user's rights, also where tests run as root."""

    @contextmanager
    def drop() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return drop

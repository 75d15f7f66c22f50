"""From a path or URL to an open slide: which backend, and what to say when none can."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from napari_wsi_xai.errors import SlideNotFoundError, SlideReadError, UnsupportedSlideError
from napari_wsi_xai.slides.backend import Backend, one_line
from napari_wsi_xai.slides.folders import dicom_slide, is_dicom, mrxs_of
from napari_wsi_xai.slides.resolution import mpp_from_user
from napari_wsi_xai.slides.slide import Slide

__all__ = ["open_slide", "slide_name"]

SUFFIXES = re.compile(
    r"(\.ome)?\.(zarr|tiff?|svs|ndpi|mrxs|scn|bif|dcm|dicom|qptiff|vms|vmu|svslide|czi|btf|tf8|tf2)$",
    re.IGNORECASE,
)
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
FORMATS = (
    "SVS, NDPI, MRXS, SCN, BIF, DICOM, TIFF, OME-TIFF, QPTIFF and OME-Zarr slides can be opened"
)


def open_slide(source: str | os.PathLike[str], mpp: float | Sequence[float] | None = None) -> Slide:
    """Open a whole-slide image.

    Parameters
    ----------
    source
        Path of a file, of a folder (DICOM, OME-Zarr, MIRAX data) or an ``http(s)://`` or
        ``s3://`` URL of an OME-Zarr image.
    mpp
        Micrometres per level-0 pixel, one number or (y, x), to state what the file lacks; it
        overrides what the file says.

    Raises
    ------
    SlideNotFoundError
        There is nothing at the path or URL.
    UnsupportedSlideError
        It is not a slide that any backend reads.
    SlideReadError
        It may not be read.
    BadArgumentError
        ``mpp`` is out of its limits.
    """
    stated = None if mpp is None else mpp_from_user(mpp)
    text = os.fspath(source)
    if text.startswith("file://"):
        text = url2pathname(urlsplit(text).path)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)
    if scheme:
        from napari_wsi_xai.slides.remote import open_remote

        return Slide(open_remote(text, scheme[1].lower()), text, slide_name(text), stated)
    path = Path(os.path.abspath(os.path.expanduser(text)))
    return Slide(_open_path(path), str(path), slide_name(str(path)), stated)


def slide_name(source: str) -> str:
    """Last part of a path or URL without the endings of slide formats."""
    parts = re.split(r"[/\\]", source.split("?")[0].rstrip("/\\"))
    return SUFFIXES.sub("", parts[-1]) or parts[-1]


def _open_path(path: Path) -> Backend:
    try:
        if path.is_dir():
            return _open_folder(path)
        if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
            raise UnsupportedSlideError("it is neither a file nor a folder")
        with path.open("rb") as file:
            start = file.read(4)
        return _open_file(path, start)
    except FileNotFoundError as error:
        if path.exists():
            raise UnsupportedSlideError(
                f"{path.name} is not a complete slide ({one_line(error)})."
            ) from error
        raise SlideNotFoundError(f"{path} does not exist: check the path.") from error
    except PermissionError as error:
        raise SlideReadError(f"{path} may not be read: ask for permission to read it.") from error
    except UnsupportedSlideError as error:
        reason = str(error).rstrip(".")
        raise UnsupportedSlideError(f"{path} is not a readable slide: {reason}.") from error
    except OSError as error:
        raise SlideReadError(f"{path} cannot be read: {one_line(error)}.") from error


def _open_folder(path: Path) -> Backend:
    """A folder that is a slide."""
    names = {entry.name for entry in path.iterdir()}
    if names & {"zarr.json", ".zattrs", ".zgroup"}:
        from napari_wsi_xai.slides.remote import open_local_zarr

        return open_local_zarr(path)
    if not names:
        raise UnsupportedSlideError("the folder is empty")
    from napari_wsi_xai.slides.openslide_backend import OpenSlideBackend

    if "Slidedat.ini" in names:
        return OpenSlideBackend(path.with_name(f"{path.name}.mrxs"), mrxs_of(path))
    first, files = dicom_slide(path)
    return OpenSlideBackend(first, files)


def _open_file(path: Path, start: bytes) -> Backend:
    """A file: OpenSlide where it knows the vendor, the TIFF reader for all other TIFFs.

    OpenSlide's "generic" reader sees neither SubIFD pyramids nor OME metadata.
    """
    if path.stat().st_size == 0:
        raise UnsupportedSlideError("the file is empty")
    is_tiff = start in TIFF_STARTS
    if is_tiff and _vendor(path) in (None, "generic-tiff"):
        return _open_tiff(path)
    from napari_wsi_xai.slides.openslide_backend import OpenSlideBackend

    if is_dicom(path):
        return OpenSlideBackend(path, dicom_slide(path.parent, path)[1])
    if path.suffix.lower() == ".mrxs":
        return OpenSlideBackend(path, mrxs_of(path.with_suffix("")))
    try:
        return OpenSlideBackend(path)
    except UnsupportedSlideError as error:
        if is_tiff:
            return _open_tiff(path, error)
        if "does not know" in str(error):
            raise UnsupportedSlideError(FORMATS) from error
        raise


def _vendor(path: Path) -> str | None:
    import openslide

    vendor: str | None = openslide.OpenSlide.detect_format(path)
    return vendor


def _open_tiff(path: Path, refused: UnsupportedSlideError | None = None) -> Backend:
    """The TIFF reader; where OpenSlide had a reason to refuse, that reason comes first."""
    from napari_wsi_xai.slides.tifffile_backend import TifffileBackend

    try:
        return TifffileBackend(path)
    except UnsupportedSlideError as error:
        raise refused or error from error

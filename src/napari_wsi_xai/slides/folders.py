"""Slides made of several files: DICOM series and MIRAX."""

from __future__ import annotations

from pathlib import Path

from napari_wsi_xai.errors import UnsupportedSlideError

__all__ = ["dicom_slide", "is_dicom", "mrxs_of", "series_uid"]

# Tag (0020,000E) SeriesInstanceUID, explicit little-endian VR "UI", then a 2-byte length.
SERIES_TAG = b"\x20\x00\x0e\x00UI"
HEADER_BYTES = 32 * 1024


def is_dicom(path: Path) -> bool:
    """Whether the file carries DICOM's mark after its 128-byte preamble."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def series_uid(path: Path) -> str | None:
    """SeriesInstanceUID of a DICOM file: all files of one slide share it."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    place = header.find(SERIES_TAG)
    if place < 0:
        return None
    start = place + len(SERIES_TAG)
    length = int.from_bytes(header[start : start + 2], "little")
    text = header[start + 2 : start + 2 + length].decode("ascii", "replace")
    return text.strip("\0 ")


def dicom_slide(folder: Path, chosen: Path | None = None) -> tuple[Path, list[tuple[str, Path]]]:
    """The file to open and all named files of the DICOM slide in ``folder``.

    Parameters
    ----------
    folder
        Where the files lie.
    chosen
        One of them; needed only where the folder holds several slides.

    Raises
    ------
    UnsupportedSlideError
        No DICOM file, or several slides and none chosen.
    """
    series: dict[str | None, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if is_dicom(path):
            series.setdefault(series_uid(path), []).append(path)
    if not series:
        raise UnsupportedSlideError("the folder holds neither DICOM files nor OME-Zarr metadata")
    if chosen is None and len(series) > 1:
        examples = ", ".join(files[0].name for files in list(series.values())[:3])
        raise UnsupportedSlideError(
            f"the folder holds {len(series)} DICOM series: give one file of the wanted slide "
            f"({examples})"
        )
    files = next(iter(series.values())) if chosen is None else series[series_uid(chosen)]
    return chosen or files[0], [(path.name, path) for path in files]


def mrxs_of(folder: Path) -> list[tuple[str, Path]]:
    """Named files of a MIRAX slide: the ``.mrxs`` file and the folder of the same name."""
    index = folder.with_name(f"{folder.name}.mrxs")
    parts = sorted(folder.iterdir()) if folder.is_dir() else []
    return [("", index), *((p.name, p) for p in parts if p.is_file())]

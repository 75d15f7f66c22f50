"""Files and tables of published data sets, and which of them are missing."""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from xml.etree import ElementTree

from napari_wsi_xai.errors import CohortError
from napari_wsi_xai.training.wording import listed

__all__ = ["missing_files", "read_sheet", "read_tsv", "root_with", "slide_files"]

_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def root_with(data: Path, name: str, wanted: Iterable[str], *folders: str) -> Path:
    """``data`` itself or one of its ``folders``, whichever holds one of the ``wanted`` folders.

    Raises
    ------
    CohortError
        None does.
    """
    wanted = tuple(wanted)
    for root in (data, *(data / folder for folder in folders)):
        if any((root / one).is_dir() for one in wanted):
            return root
    if not data.is_dir():
        raise CohortError(f"there is no folder at {data}: give the one that {name} lies in.")
    raise CohortError(
        f"{data} does not hold {name} as it is distributed: {' or '.join(wanted)} is missing."
    )


def slide_files(folder: Path, *endings: str) -> list[Path]:
    """Files with one of these endings in a folder, by name; none where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in endings and not path.name.startswith(".")
    )


def missing_files(name: str, root: Path, missing: Iterable[Path | str]) -> None:
    """Raise where files of a data set are missing; the message names them from ``root`` on."""
    names = [
        path.relative_to(root).as_posix() if isinstance(path, Path) else path for path in missing
    ]
    if names:
        what = "1 file" if len(names) == 1 else f"{len(names)} files"
        raise CohortError(f"{what} of {name} missing in {root}: {listed(names)}.")


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Rows of a table with tabs between its columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [
                {str(key): (value or "").strip() for key, value in row.items() if key}
                for row in csv.DictReader(file, delimiter="\t")
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CohortError(f"{path} cannot be read as a table: {error}.") from error


def read_sheet(path: Path, fits: Callable[[list[str]], bool]) -> list[dict[str, str]]:
    """Rows of the first sheet of an ``.xlsx`` whose header ``fits``.

    Raises
    ------
    CohortError
        It is no workbook, or no sheet fits.
    """
    try:
        with zipfile.ZipFile(path) as book:
            strings = _shared_strings(book)
            sheets = [name for name in book.namelist() if name.startswith("xl/worksheets/sheet")]
            for name in sorted(sheets):
                rows = list(_rows(ElementTree.fromstring(book.read(name)), strings))
                for number, header in enumerate(rows):
                    if fits(header):
                        return [
                            dict(zip(header, row, strict=False))
                            for row in rows[number + 1 :]
                            if any(row)
                        ]
    except (OSError, zipfile.BadZipFile, ElementTree.ParseError, KeyError, ValueError) as error:
        raise CohortError(f"{path} cannot be read as an .xlsx workbook: {error}.") from error
    raise CohortError(f"{path} has no sheet with the columns that are needed.")


def _shared_strings(book: zipfile.ZipFile) -> list[str]:
    if "xl/sharedStrings.xml" not in book.namelist():
        return []
    tree = ElementTree.fromstring(book.read("xl/sharedStrings.xml"))
    return ["".join(part.itertext()) for part in tree.iter(f"{_SHEET}si")]


def _rows(sheet: ElementTree.Element, strings: list[str]) -> Iterable[list[str]]:
    """Rows as lists of texts; cells that the file leaves out are empty."""
    for row in sheet.iter(f"{_SHEET}row"):
        cells: dict[int, str] = {}
        for place, cell in enumerate(row.iter(f"{_SHEET}c")):
            letters = re.match(r"[A-Z]+", cell.get("r", ""))
            column = _column(letters[0]) if letters else place
            cells[column] = _text(cell, strings)
        yield [cells.get(column, "") for column in range(max(cells, default=-1) + 1)]


def _text(cell: ElementTree.Element, strings: list[str]) -> str:
    value = cell.findtext(f"{_SHEET}v") or ""
    if cell.get("t") == "s":
        return strings[int(value)].strip()
    if cell.get("t") == "inlineStr":
        return "".join(cell.itertext()).strip()
    return value.removesuffix(".0").strip()


def _column(letters: str) -> int:
    """0 for A, 25 for Z, 26 for AA."""
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1

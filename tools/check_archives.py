"""Fail if a built sdist or wheel lacks a file that users need. Usage: check_archives.py DIST."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

IN_PACKAGE = ["napari.yaml", "py.typed", "cli/__init__.py", "demo/*.safetensors"]
IN_SDIST = ["pyproject.toml", "README.md", "LICENSE", "constraints.txt", "tox.ini", "napari.yaml"]


def lacking(names: list[str], patterns: list[str]) -> list[str]:
    """Return the patterns that no name ends with."""
    paths = [Path(name) for name in names]
    return [pattern for pattern in patterns if not any(path.match(pattern) for path in paths)]


def main() -> int:
    """Look into both archives of the folder; 1 if something is missing."""
    dist = Path(sys.argv[1])
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    package = [f"napari_wsi_xai/{pattern}" for pattern in IN_PACKAGE]
    with zipfile.ZipFile(wheel) as archive:
        absent = [(wheel, p) for p in lacking(archive.namelist(), package)]
        foreign = {Path(name).parts[0] for name in archive.namelist()}
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    sources = [f"src/{pattern}" for pattern in package]
    root = sdist.name.removesuffix(".tar.gz")
    absent += [(sdist, p) for p in lacking(names, [*sources, *(f"{root}/{p}" for p in IN_SDIST)])]
    for archive_path, pattern in absent:
        print(f"{archive_path.name} lacks {pattern}", file=sys.stderr)
    if stray := {f for f in foreign if f != "napari_wsi_xai" and not f.endswith(".dist-info")}:
        print(f"{wheel.name} would install {sorted(stray)} beside the package", file=sys.stderr)
    for path in (wheel, sdist):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    return 1 if absent or stray else 0


if __name__ == "__main__":
    sys.exit(main())

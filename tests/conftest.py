"""Fixtures shared by all rooms."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _shared(name: str) -> Path:
    folder = ROOT.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"reference data folder {folder} is absent")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides, annotations and weights."""
    return _shared("data")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of reference numbers of the published methods."""
    return _shared("golden")

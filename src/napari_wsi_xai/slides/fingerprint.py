"""Cheap digests of content: the same for a copy, whatever its path or time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from napari_wsi_xai.slides.backend import Pixels

__all__ = ["fingerprint_files", "fingerprint_pyramid"]

SAMPLE_BYTES = 768 * 1024
SAMPLED_FILES = 64


def fingerprint_files(named: Iterable[tuple[str, Path]]) -> str:
    """Digest of sizes and of each file's head, middle and tail, 768 KiB in all.

    Parameters
    ----------
    named
        Files, each with the name that counts: empty for a single file, so that renaming it
        changes nothing; relative to the folder for slides made of several files. Only the first
        64 names are sampled, all are counted with name and size.
    """
    files = sorted(named)
    share = SAMPLE_BYTES // min(len(files), SAMPLED_FILES) // 3
    digest = hashlib.sha256()
    for number, (name, path) in enumerate(files):
        size = path.stat().st_size
        digest.update(json.dumps([name, size]).encode())
        if number < SAMPLED_FILES:
            with path.open("rb") as file:
                for start in (0, (size - share) // 2, size - share):
                    file.seek(max(start, 0))
                    digest.update(file.read(share))
    return f"sha256:{digest.hexdigest()}"


def fingerprint_pyramid(metadata: object, samples: Iterable[Pixels]) -> str:
    """Digest of a pyramid's metadata and of some of its pixels.

    Of decoded pixels, so that a local copy and the same image behind a URL agree.
    """
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for pixels in samples:
        digest.update(json.dumps(pixels.shape).encode())
        digest.update(pixels.tobytes())
    return f"sha256:{digest.hexdigest()}"

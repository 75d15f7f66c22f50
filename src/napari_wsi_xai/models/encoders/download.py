"""Weights that a library publishes under an address: from the hub's cache, or fetched into it."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

import torch

from napari_wsi_xai.errors import ModelFileError, WeightsNotFoundError

__all__ = ["cache_folder", "fetch"]

_HASH_IN_NAME = re.compile(r"-([a-f0-9]{8,})\.")
_TIMEOUT_S = 20.0
_CHUNK = 1 << 20


def cache_folder() -> Path:
    """Where PyTorch keeps downloaded weights (``TORCH_HOME`` moves it)."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def fetch(url: str, what: str) -> Path:
    """The file of a weights address, downloaded unless it lies in the cache already.

    The file's name carries the beginning of its SHA-256, which a download must match.

    Parameters
    ----------
    url
        Published address of the weights.
    what
        Words for the message, such as ``"weights IMAGENET1K_V2 of resnet50"``.

    Raises
    ------
    WeightsNotFoundError
        Not cached and not to be had; the message names the file and the folder to put it in.
    ModelFileError
        The download is not the file that was published.
    """
    name = os.path.basename(urlparse(url).path)
    target = cache_folder() / name
    if target.is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(url, target)
    except OSError as error:
        raise WeightsNotFoundError(
            f"{what} are not cached and could not be downloaded: place the file {name!r} "
            f"(from {url}) in the folder {str(target.parent)!r}."
        ) from error
    return target


def _download(url: str, target: Path) -> None:
    digest = hashlib.sha256()
    handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".part")
    try:
        with (
            os.fdopen(handle, "wb") as file,
            urllib.request.urlopen(url, timeout=_TIMEOUT_S) as source,
        ):
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
        expected = _HASH_IN_NAME.search(target.name)
        if expected and not digest.hexdigest().startswith(expected.group(1)):
            raise ModelFileError(
                f"the download of {target.name!r} is damaged: its SHA-256 does not begin with "
                f"{expected.group(1)}."
            )
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)

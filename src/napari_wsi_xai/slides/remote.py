"""Opening OME-Zarr groups, in a local folder or behind a URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import Store

from napari_wsi_xai.errors import SlideNotFoundError, UnsupportedSlideError
from napari_wsi_xai.slides.backend import one_line
from napari_wsi_xai.slides.omezarr_backend import OmeZarrBackend

__all__ = ["open_local_zarr", "open_remote"]

SCHEMES = ("http", "https", "s3")
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")
CONNECT_S = 5.0
READ_S = 30.0


def open_local_zarr(path: Path) -> OmeZarrBackend:
    """The OME-Zarr image in a folder."""
    from zarr.storage import LocalStore

    return _open_image(LocalStore(path, read_only=True))


def open_remote(url: str, scheme: str) -> OmeZarrBackend:
    """The OME-Zarr image behind a URL.

    Raises
    ------
    SlideNotFoundError
        Nothing there, or the host cannot be reached.
    UnsupportedSlideError
        Another scheme than http, https or s3, or not an OME-Zarr image.
    """
    if scheme not in SCHEMES:
        raise UnsupportedSlideError(
            f"{url} starts with {scheme}://: http://, https:// and s3:// URLs of OME-Zarr images "
            "can be opened; other files must be copied to a local disk first."
        )
    try:
        return _open_remote(url, scheme, anonymous=False)
    except Exception as error:
        if type(error).__name__ not in NO_CREDENTIALS:
            raise
    return _open_remote(url, scheme, anonymous=True)  # public buckets want none


def _open_remote(url: str, scheme: str, anonymous: bool) -> OmeZarrBackend:
    try:
        return _open_image(_store(url, scheme, anonymous))
    except SlideNotFoundError as error:
        raise SlideNotFoundError(
            f"{url} holds no OME-Zarr image: check the URL, which must be that of the image's "
            "group (with zarr.json or .zattrs in it)."
        ) from error
    except UnsupportedSlideError as error:
        reason = str(error).rstrip(".")
        raise UnsupportedSlideError(f"{url} is not a readable slide: {reason}.") from error
    except Exception as error:
        if type(error).__name__ in NO_CREDENTIALS and not anonymous:
            raise
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: Exception) -> SlideNotFoundError:
    return SlideNotFoundError(
        f"{url} cannot be reached ({one_line(error)}): check the URL and the network."
    )


def _store(url: str, scheme: str, anonymous: bool) -> Store:
    from zarr.storage import FsspecStore

    options: dict[str, Any]
    if scheme == "s3":
        once = {"total_max_attempts": 1}
        config = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": once}
        options = {"anon": anonymous, "config_kwargs": config}
    else:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
        # trust_env: hospital networks reach the outside through a proxy named there.
        options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    store = FsspecStore.from_url(url.rstrip("/"), storage_options=options, read_only=True)
    if scheme == "s3":
        store.fs.retries = 2  # its default of 5 waits most of a minute for a silent host
    return store


def _open_image(store: Store) -> OmeZarrBackend:
    """The image at the root, or the first image of a bioformats2raw collection."""
    try:
        group = zarr.open_group(store, mode="r")
    except FileNotFoundError as error:
        raise SlideNotFoundError("there is no Zarr group") from error
    except (KeyError, ValueError, TypeError) as error:
        raise UnsupportedSlideError(
            f"its Zarr metadata cannot be read ({one_line(error)})"
        ) from error
    attributes = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    if isinstance(ome, dict) and "multiscales" not in ome and "bioformats2raw.layout" in ome:
        child = group.get("0")
        if isinstance(child, zarr.Group):
            group = child
    return OmeZarrBackend(group)

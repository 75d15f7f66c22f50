"""What every result store is: a Zarr v3 group that says what its results were made of."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import zarr
from zarr.storage import LocalStore

from napari_wsi_xai.errors import StoreError, StoreMismatchError

__all__ = ["KEY", "StoreGroup", "clear_unfinished", "kind_of", "occupied", "reading", "writing"]

KEY = "napari_wsi_xai"

UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.partial$")
"""Name of a file while it is being written; one that a killed session left is no part of it."""

IDENTITY_WORDS = {
    "slide": "another slide",
    "grid": "another tile grid",
    "mpps": "other magnifications",
    "tissue": "another selection of tissue tiles",
    "encoder": "another encoder",
    "model": "another model",
    "block_tiles": "another block size",
    "feature_dtype": "another feature type",
    "exhaustive": "another way of opening tiles",
    "watched": "other watched slides",
    "classes": "other classes",
    "head": "another head",
}


class StoreGroup:
    """A group on disk or in memory with schema, identity, provenance and result.

    Attributes
    ----------
    group
        The Zarr group.
    path
        Its folder; None in memory.
    """

    SCHEMA: ClassVar[int]
    KIND: ClassVar[str]

    def __init__(self, group: zarr.Group, path: Path | None) -> None:
        self.group = group
        self.path = path

    @classmethod
    def open(cls, path: Path | str, mode: Literal["r", "r+"] = "r") -> Self:
        """Open an existing store.

        Raises
        ------
        StoreError
            Nothing is there, it is no result store of this kind, or its schema is newer than this
            package.
        """
        path = Path(path)
        group, attributes = _opened(path, mode)
        kind = attributes.get("kind", "tiles")
        if kind != cls.KIND:
            opener = "EpochStore.open" if kind == "epochs" else "open_run, which knows both"
            raise StoreError(
                f"{path} holds results of the kind {kind!r}, not {cls.KIND!r}: open it with "
                f"{opener}."
            )
        schema = attributes.get("schema")
        if schema != cls.SCHEMA:
            raise StoreError(
                f"{path} has schema {schema!r}, this version reads {cls.SCHEMA}: update "
                "napari-wsi-xai."
            )
        with reading(path):
            attributes["identity"]
        return cls(group, path)

    @property
    def attributes(self) -> dict[str, Any]:
        """The group's ``napari_wsi_xai`` attribute."""
        value = self.group.attrs[KEY]
        assert isinstance(value, Mapping)
        return dict(value)

    def update_attributes(self, **values: Any) -> None:
        """Set entries of the attribute; nothing is written where nothing changes."""
        old = self.attributes
        new = {**old, **values}
        if new != old:
            with writing(self.path):
                self.group.attrs[KEY] = new

    def require(self, identity: dict[str, Any]) -> None:
        """Raise unless the store's results were made with ``identity``."""
        own = self.attributes["identity"]
        differing = [key for key in identity if own.get(key) != identity[key]]
        if differing:
            words = ", ".join(IDENTITY_WORDS.get(key, key) for key in differing)
            details = "; ".join(
                f"{key}: {_brief(own.get(key), identity[key])}" for key in differing
            )
            raise StoreMismatchError(
                f"{self.path} holds results of {words} ({details}): choose another output, or "
                "delete it to start over."
            )


def kind_of(path: Path | str) -> str:
    """``"tiles"`` for a run over one magnification, ``"magnifications"`` for one over several.

    Raises
    ------
    StoreError
        There is no readable result store.
    """
    return str(_opened(Path(path), "r")[1].get("kind", "tiles"))


def _opened(path: Path, mode: Literal["r", "r+"]) -> tuple[zarr.Group, Mapping[str, Any]]:
    if not path.is_dir():
        raise StoreError(f"there is no result store at {path}.")
    try:
        group = zarr.open_group(LocalStore(path, read_only=mode == "r"), mode=mode)
        attributes = group.attrs[KEY]
    except (FileNotFoundError, KeyError, ValueError, TypeError, OSError) as error:
        raise StoreError(
            f"{path} is not a result store of napari-wsi-xai, or a damaged one: choose another."
        ) from error
    return group, attributes if isinstance(attributes, Mapping) else {}


@contextmanager
def reading(place: Path | str | None) -> Iterator[None]:
    """Turn errors of a read of what a store must hold into one sentence with the remedy."""
    try:
        yield
    except StoreError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise StoreError(
            f"{place} is damaged ({reason}): delete it and score the slide again."
        ) from error


@contextmanager
def writing(path: Path | None) -> Iterator[None]:
    """Turn operating-system errors of a write into one sentence with the remedy."""
    try:
        yield
    except OSError as error:
        kept = "finished blocks are kept, the same command goes on from there"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(f"no space left to write {path}: free some; {kept}.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StoreError(f"no permission to write {path}: choose another output.") from error
        raise StoreError(f"cannot write {path} ({error.strerror or error}); {kept}.") from error


def occupied(path: Path, begun: frozenset[str]) -> bool:
    """Whether something that must not be overwritten is at ``path``.

    ``begun`` are the names of what a store that was never finished being made may hold.
    """
    if not path.exists():
        return False
    if not path.is_dir():
        raise StoreError(f"{path} is a file, not a result store: choose another output.")
    names = {entry.name for entry in path.iterdir()}
    if {name for name in names if not UNFINISHED.search(name)} - begun:
        return True
    try:
        return KEY in zarr.open_group(LocalStore(path, read_only=True), mode="r").attrs
    except (FileNotFoundError, ValueError, OSError):
        return False


def clear_unfinished(path: Path) -> None:
    """Remove what a session left that was killed while it wrote a file."""
    for place in path.rglob("*.partial"):
        if UNFINISHED.search(place.name):
            with suppress(OSError):  # nothing reads it, so it may as well stay
                place.unlink()


def _brief(there: Any, here: Any) -> str:
    """What differs between two identity values, short."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
        told = [(key, there.get(key, "not"), here.get(key, "not")) for key in keys]
        return ", ".join(f"{key} {old} there, {new} here" for key, old, new in told)
    if isinstance(there, list) and isinstance(here, list):
        return f"{there} there, {here} here"
    short = [str(value).removeprefix("sha256:")[:12] for value in (there, here)]
    return f"{short[0]} there, {short[1]} here"

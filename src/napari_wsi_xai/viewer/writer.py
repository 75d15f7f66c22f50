"""napari's writer: keeps the results behind map layers as a result store of their own."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_wsi_xai.errors import StoreError
from napari_wsi_xai.viewer.pictures import MAP_KINDS
from napari_wsi_xai.viewer.slide_layers import METADATA_KEY

__all__ = ["write_run"]

LayerTuple = tuple[Any, dict[str, Any], str]


def write_run(path: str, layers: Sequence[LayerTuple]) -> list[str]:
    """Write the result store that the given layers show to ``path``.

    The whole store is kept, features and provenance too, so that the copy opens like the
    original, here and in any OME-Zarr viewer.

    Parameters
    ----------
    path
        New folder, by custom ``<name>.wsixai.zarr``.
    layers
        Layer data tuples, at least one of them a map of this plugin, all of one run.

    Returns
    -------
    list of str
        The path; empty where no layer shows a run, so that napari can say so.

    Raises
    ------
    StoreError
        The layers are of several runs, the store is gone, or the place is taken.
    """
    found = {}
    for _, attributes, _ in layers:
        about = attributes.get("metadata", {}).get(METADATA_KEY, {})
        if about.get("kind") in MAP_KINDS:
            found[about["store"] or id(about["group"])] = about
    if not found:
        return []
    if len(found) > 1:
        raise StoreError(
            f"the layers come from {len(found)} different runs: save those of one at a time."
        )
    (about,) = found.values()
    target = Path(path)
    if about["store"] and target.resolve() == Path(about["store"]).resolve():
        return [str(target)]  # it is kept there already
    if target.exists():
        raise StoreError(f"{target} exists already: choose another name.")
    _copy(about, target)
    return [str(target)]


def _copy(about: dict[str, Any], target: Path) -> None:
    """Copy a store from its folder or from memory; ``target`` appears when it is whole."""
    partial = target.with_name(target.name + ".partial")
    try:
        if about["store"]:
            shutil.copytree(about["store"], partial)
        else:
            _copy_from_memory(about["group"], partial)
        partial.rename(target)
    except FileNotFoundError as error:
        raise StoreError(f"the results at {about['store']} are gone: score again.") from error
    except OSError as error:
        raise StoreError(f"cannot write {target} ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_from_memory(group: Any, folder: Path) -> None:
    """Write every key of an in-memory Zarr group as a file."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    async def contents() -> dict[str, bytes]:
        prototype = default_buffer_prototype()
        found = {}
        async for key in group.store.list():
            buffer = await group.store.get(key, prototype=prototype)
            if buffer is not None:
                found[key] = buffer.to_bytes()
        return found

    for key, data in sync(contents()).items():
        file = folder / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

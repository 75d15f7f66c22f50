"""A slide as OME-Zarr 0.5 on disk: sharded, lossless, all or nothing."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from napari_wsi_xai.errors import BadArgumentError, StoreError
from napari_wsi_xai.slides.backend import one_line
from napari_wsi_xai.slides.multiscales import OWN_ATTRIBUTES, ome_attributes
from napari_wsi_xai.slides.pyramid import PlannedLevel, halve, plan_levels
from napari_wsi_xai.slides.slide import Slide

__all__ = ["convert_slide"]

ZSTD_LEVEL = 3
WORKERS = min(4, os.cpu_count() or 1)


def convert_slide(
    slide: Slide,
    out: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] | None = None,
    chunk: int = 512,
    shard: int = 2048,
    overwrite: bool = False,
) -> Path:
    """Write ``slide`` as an OME-Zarr 0.5 image with axes (c, y, x), losslessly.

    Levels of the slide are copied bit for bit; where it has none, or steps of more than 4.5, each
    next level is the mean of 2 x 2 pixels. Holds a few shards in memory, whatever the slide's
    size. ``out`` appears when everything is written and not before. Label and macro images, which
    often show patient data, and the file's free-text metadata are left behind.

    Parameters
    ----------
    slide
        An open slide.
    out
        Folder to write, ``<name>.ome.zarr`` by custom.
    progress
        Called with (shards done, shards in all).
    chunk
        Edge in pixels of what is compressed on its own.
    shard
        Edge in pixels of a file, a multiple of ``chunk``.
    overwrite
        Replace ``out`` if it exists, once the new one is complete.

    Returns
    -------
    pathlib.Path
        ``out``, absolute.

    Raises
    ------
    StoreError
        ``out`` exists, or cannot be written (no permission, disk full).
    SlideReadError
        The slide's pixels cannot be decoded.
    """
    if chunk < 16 or shard < chunk or shard % chunk:
        raise BadArgumentError(
            f"shard={shard} must be a multiple of chunk={chunk}, which must be at least 16 pixels."
        )
    target = Path(os.path.abspath(os.path.expanduser(os.fspath(out))))
    if os.path.lexists(target) and not overwrite:
        raise StoreError(f"{target} exists: choose another name or allow overwriting.")
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir(parents=True)
        _write(slide, partial, _stem(target), progress, chunk, shard)
        _publish(partial, target)
    except OSError as error:
        raise StoreError(_why(error, target)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _stem(target: Path) -> str:
    from napari_wsi_xai.slides.sources import slide_name

    return slide_name(str(target))


def _publish(partial: Path, target: Path) -> None:
    """Rename into place; an older result goes away only when the new one stands."""
    if not os.path.lexists(target):
        partial.rename(target)
        return
    old = partial.with_suffix(".replaced")
    target.rename(old)
    try:
        partial.rename(target)
    except OSError:
        old.rename(target)
        raise
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink()


def _why(error: OSError, target: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{target} cannot be written, the disk is full: free space or choose another folder."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{target} cannot be written, {target.parent} is not writable: "
            "choose another folder or ask for permission."
        )
    return f"{target} cannot be written ({one_line(error)}): choose another folder."


def _write(
    slide: Slide,
    folder: Path,
    name: str,
    progress: Callable[[int, int], None] | None,
    chunk: int,
    shard: int,
) -> None:
    """Write every level, one after the other, shards in parallel."""
    plan = plan_levels(slide.level_shapes, slide.downsamples)
    root = zarr.create_group(str(folder), zarr_format=3)
    paths = [str(i) for i in range(len(plan))]
    attributes = ome_attributes(name, paths, [lv.downsample for lv in plan], slide.mpp)
    root.attrs.update(attributes | {OWN_ATTRIBUTES: _own_attributes(slide)})
    total = sum(len(list(_shards(lv.shape, shard))) for lv in plan)
    done = 0
    finer: zarr.Array[Any] | None = None
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="convert") as pool:
        for path, level in zip(paths, plan, strict=True):
            array = _create(root, path, level.shape, chunk, shard)

            def one(
                place: tuple[int, int],
                array: zarr.Array[Any] = array,
                level: PlannedLevel = level,
                finer: zarr.Array[Any] | None = finer,
            ) -> None:
                _write_shard(slide, level, finer, array, place, shard)

            for _ in _bounded(pool, one, _shards(level.shape, shard)):
                done += 1
                if progress is not None:
                    progress(done, total)
            finer = array


def _own_attributes(slide: Slide) -> dict[str, Any]:
    """What OME-Zarr has no place for and this package wants back."""
    bounds = slide.bounds
    return {
        "bounds": [bounds.y, bounds.x, bounds.height, bounds.width],
        "background": list(slide.background),
        "objective_power": slide.objective_power,
        "vendor": slide.vendor,
        "source_fingerprint": slide.fingerprint,
    }


def _create(
    root: zarr.Group, path: str, shape: tuple[int, int], chunk: int, shard: int
) -> zarr.Array[Any]:
    array: zarr.Array[Any] = root.create_array(
        path,
        shape=(3, *shape),
        dtype=np.uint8,
        chunks=(3, chunk, chunk),
        shards=(3, shard, shard),
        compressors=ZstdCodec(level=ZSTD_LEVEL),
        fill_value=255,
        dimension_names=("c", "y", "x"),
    )
    return array


def _shards(shape: tuple[int, int], shard: int) -> Iterator[tuple[int, int]]:
    """First corners (y, x) of all shards, in rows."""
    for y in range(0, shape[0], shard):
        for x in range(0, shape[1], shard):
            yield y, x


def _write_shard(
    slide: Slide,
    level: PlannedLevel,
    finer: zarr.Array[Any] | None,
    array: zarr.Array[Any],
    place: tuple[int, int],
    shard: int,
) -> None:
    """Read or make the pixels of one shard and write them."""
    y, x = place
    bottom, right = min(y + shard, level.shape[0]), min(x + shard, level.shape[1])
    if level.source is not None:
        pixels = slide.read_level(level.source, y, x, bottom - y, right - x).transpose(2, 0, 1)
    else:
        assert finer is not None, "the first level is always the slide's own"
        pixels = halve(np.asarray(finer[:, 2 * y : 2 * bottom, 2 * x : 2 * right]))
    array[:, y:bottom, x:right] = pixels


def _bounded(
    pool: ThreadPoolExecutor,
    work: Callable[[tuple[int, int]], None],
    places: Iterator[tuple[int, int]],
) -> Iterator[None]:
    """Do ``work`` on all places; yields as each is done; at the first error starts no more."""
    running: set[Future[None]] = set()
    try:
        for place in places:
            if len(running) >= 2 * WORKERS:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
            running.add(pool.submit(work, place))
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    finally:
        for future in running:
            future.cancel()
        wait(running)

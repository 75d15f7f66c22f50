"""Features that other tools extracted, in and out: CLAM / TRIDENT ``.h5`` and ``.pt`` bags."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import BadArgumentError, StoreError
from napari_wsi_xai.runs.run import Run
from napari_wsi_xai.runs.store_group import writing

__all__ = ["FeatureBag", "read_feature_bag", "write_feature_bag"]

AROUND_BYTES = 65536
"""Most that a feature file holds besides features and coordinates."""


@dataclass(frozen=True, eq=False)
class FeatureBag:
    """Descriptors of a slide's tissue tiles, as other tools keep them.

    Attributes
    ----------
    features
        (n, N) float32 or float16.
    coords_level0
        (n, 2) int64 corners, yx, level-0 pixels; None where the file has none (``.pt``).
    tile_size_level0
        Edge of a tile in level-0 pixels; None where the file does not say.
    attributes
        What else the file says.
    """

    features: NDArray[Any]
    coords_level0: NDArray[np.int64] | None = None
    tile_size_level0: float | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run) -> FeatureBag:
        """The tiles that a run has features of, in the grid's order."""
        indices: list[NDArray[np.int64]] = []
        parts = [features for features, _ in run.bag_blocks(indices)]
        if not parts:
            raise StoreError(f"{run.path or run.name} holds no features yet: score it first.")
        attributes = {
            "name": run.name,
            "patch_size": run.grid.tile_px,
            "mpp": run.grid.mpp,
            "level0_mpp_yx": list(run.grid.slide_mpp),
            "encoder": run.store.attributes["model"]["encoder"],
        }
        return cls(
            np.concatenate(parts),
            run.grid.origins_level0(np.concatenate(indices)),
            float(np.mean(run.grid.tile_size_level0)),
            attributes,
        )


def write_feature_bag(bag: FeatureBag, path: str | os.PathLike[str]) -> Path:
    """Write a bag as ``.h5`` (CLAM / TRIDENT layout) or ``.pt`` (a tensor of features alone).

    The ``.h5`` holds ``features`` (n, N) and ``coords`` (n, 2) in **x, y** level-0 pixels with
    the attribute ``patch_size_level0``, as those tools have it.

    Raises
    ------
    BadArgumentError
        The suffix is neither, or an ``.h5`` is asked for a bag without coordinates.
    StoreError
        The file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    if path.suffix not in (".h5", ".pt"):
        raise BadArgumentError(f"{path.name} ends neither in .h5 nor in .pt: choose one.")
    with writing(path):
        _require_room(bag, path.absolute().parent)
        try:
            if path.suffix == ".h5":
                _write_h5(bag, partial)
            else:
                import torch

                torch.save(torch.from_numpy(np.ascontiguousarray(bag.features)), partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def _require_room(bag: FeatureBag, folder: Path) -> None:
    """Raise where the disk is too full: HDF5 ends the process when it cannot close a file."""
    coords = 0 if bag.coords_level0 is None else bag.coords_level0.nbytes
    if shutil.disk_usage(folder).free < bag.features.nbytes + coords + AROUND_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write_h5(bag: FeatureBag, path: Path) -> None:
    import h5py

    if bag.coords_level0 is None:
        raise BadArgumentError("a bag without coordinates cannot be written as .h5: use .pt.")
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=bag.features)
        coords = file.create_dataset("coords", data=bag.coords_level0[:, ::-1])
        if bag.tile_size_level0 is not None:
            coords.attrs["patch_size_level0"] = round(bag.tile_size_level0)
        coords.attrs.update(bag.attributes)


def read_feature_bag(path: str | os.PathLike[str]) -> FeatureBag:
    """Read a CLAM / TRIDENT ``.h5`` or a ``.pt`` bag; nothing in it is executed.

    Raises
    ------
    StoreError
        The file is missing, damaged or of another layout.
    """
    path = Path(path)
    if not path.is_file():
        raise StoreError(f"there is no feature file at {path}.")
    if path.suffix == ".pt":
        return FeatureBag(_read_pt(path))
    import h5py

    try:
        with h5py.File(path, "r") as file:
            features = np.squeeze(file["features"][()])
            coords = np.squeeze(file["coords"][()])
            attributes = dict(file["coords"].attrs)
    except (OSError, KeyError) as error:
        raise StoreError(
            f"{path} is not a CLAM or TRIDENT feature file ('features' and 'coords'): {error}."
        ) from error
    features, coords = np.atleast_2d(features), np.atleast_2d(coords)
    if features.ndim != 2 or coords.shape != (len(features), 2):
        raise StoreError(
            f"{path} has features {features.shape} and coords {coords.shape}: (n, N) and (n, 2) "
            "are needed."
        )
    if features.dtype.kind not in "biuf":
        raise StoreError(f"{path} has features of {features.dtype}: real numbers are needed.")
    size = attributes.get("patch_size_level0", attributes.get("patch_size"))
    try:
        edge = None if size is None else float(size)
    except (TypeError, ValueError) as error:
        raise StoreError(f"{path} has tiles of the size {size}: a number is needed.") from error
    return FeatureBag(features, coords[:, ::-1].astype(np.int64), edge, attributes)


def _read_pt(path: Path) -> NDArray[Any]:
    import pickle

    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise StoreError(f"{path} is not a file of tensors that is safe to load.") from error
    dense = isinstance(loaded, torch.Tensor) and loaded.layout is torch.strided
    if not dense or loaded.squeeze().ndim not in (1, 2):
        raise StoreError(f"{path} does not hold one tensor of features (n, N).")
    return np.atleast_2d(loaded.detach().squeeze().float().numpy())

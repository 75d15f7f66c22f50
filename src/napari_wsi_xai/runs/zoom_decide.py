"""What a head makes of the tiles of several magnifications, and the maps of each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.errors import RunError
from napari_wsi_xai.runs.bag import evaluate_bag
from napari_wsi_xai.runs.maps import ALL_CLASSES, map_of_tiles, maps_from_output
from napari_wsi_xai.runs.run import Run
from napari_wsi_xai.tiles import children_of

if TYPE_CHECKING:
    from torch import Tensor

    from napari_wsi_xai.models import MILModel, MILOutput
    from napari_wsi_xai.models.mil.zoommil import ZoomLevel, ZoomMIL

__all__ = ["Decision", "decide", "side_by_side", "tiles_to_open"]

Maps = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Decision:
    """What is known of a slide so far.

    Attributes
    ----------
    maps
        Of every magnification that has tiles, coarse to fine.
    looked, opened
        Tiles the head took into account, and those looked into, at each of them.
    output
        The head's; None while tiles are missing without which it cannot decide.
    left_out
        Finest tiles not used because a coarser tile around them failed.
    """

    maps: list[Maps]
    looked: list[int]
    opened: list[int]
    output: MILOutput | None = None
    left_out: int = 0


@dataclass(frozen=True, eq=False)
class _Seen:
    """Tiles of one magnification, and what the head that zooms says of them."""

    index: NDArray[np.int64]
    features: Tensor
    told: ZoomLevel = field(repr=False)

    @property
    def opened(self) -> NDArray[np.int64]:
        return np.asarray(self.index[self.told.opened.numpy()])


def decide(
    head: MILModel, levels: Sequence[Run], ratios: Sequence[int], classes: tuple[str, ...]
) -> Decision:
    """Run the head over what has been read so far.

    Parameters
    ----------
    head
        One that looks at several magnifications.
    levels
        The runs begun so far, coarse to fine.
    ratios
        How many times finer each magnification is than the one before it.
    classes
        Class names.

    Raises
    ------
    RunError
        A magnification has been read, and no tile of it could be used.
    """
    import torch

    with torch.inference_mode():
        if head.magnification_use == "zoom":
            return _decide_zooming(cast("ZoomMIL", head), levels, ratios)
        if head.magnification_use == "pool":
            return _decide_pooling(head, levels, len(ratios) + 1, classes)
        return _decide_side_by_side(head, levels, ratios, classes)


def tiles_to_open(
    head: MILModel, levels: Sequence[Run], ratios: Sequence[int]
) -> NDArray[np.int64]:
    """(row, column) of the tiles of the last of ``levels`` that the head looks into."""
    import torch

    with torch.inference_mode():
        return _walk(cast("ZoomMIL", head), levels, ratios)[-1].opened


def _walk(head: ZoomMIL, levels: Sequence[Run], ratios: Sequence[int]) -> list[_Seen]:
    """Magnification after magnification, as far as tiles have been read.

    Each bag holds the children of the tiles opened before it, parent after parent, without those
    that failed. What else was read (an exhaustive run) is not looked at.
    """
    import torch

    seen: list[_Seen] = []
    index = levels[0].grid.indices(levels[0].tissue)
    for level, run in enumerate(levels):
        _require_read(run, index)
        index, bag = _usable(run, index)
        if not len(index):
            break
        features = torch.from_numpy(bag)
        seen.append(_Seen(index, features, head.look(level, features)))
        if not run.complete or level == len(ratios):
            break
        index = children_of(seen[-1].opened, ratios[level])
    return seen


def _usable(run: Run, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Those tiles of ``index`` that have a descriptor, and it."""
    bag = run.descriptors_of(index)
    usable = np.isfinite(bag[:, 0])
    if run.complete:
        _require_any(run, int(usable.sum()))
    return index[usable], bag[usable]


def _require_read(run: Run, index: NDArray[np.int64]) -> None:
    """Raise where the head opens tiles now that it did not open when their children were read."""
    if not run.tissue[tuple(index.T)].all():
        raise RunError(
            f"{run.path or run.name} was begun with other tiles than the head opens here, as "
            "happens where scores are equal and another machine rounds them differently: delete it "
            "and score the slide again."
        )


def _require_any(run: Run, usable: int) -> None:
    if not usable:
        raise RunError(
            f"none of {run.total} tiles at {run.grid.mpp:g} um/px could be used, so there is "
            "nothing to decide."
        )


def _decide_zooming(head: ZoomMIL, levels: Sequence[Run], ratios: Sequence[int]) -> Decision:
    seen = _walk(head, levels, ratios)
    maps = [
        _maps_of(one, run, finest=level == len(ratios))
        for level, (one, run) in enumerate(zip(seen, levels, strict=False))
    ]
    decided = len(seen) == len(ratios) + 1 and all(run.complete for run in levels)
    return Decision(
        maps,
        [len(one.index) for one in seen],
        [len(one.told.opened) for one in seen],
        head.forward_opened([one.features for one in seen]) if decided else None,
    )


def _maps_of(one: _Seen, run: Run, finest: bool) -> Maps:
    """Attention, scores, what decided the opening, and what was opened."""
    columns = {"attention": one.told.attention, "tile-scores": one.told.tile_scores}
    if one.told.selection is not None:
        columns["selection"] = one.told.selection
    maps = {
        f"{method}/{ALL_CLASSES}": map_of_tiles(values[:, 0].numpy(), one.index, run.grid.shape)
        for method, values in columns.items()
    }
    if run.complete and not finest:  # before that, nothing has been opened
        opened = np.zeros(len(one.index), dtype=np.float32)
        opened[one.told.opened.numpy()] = 1
        maps[f"opened/{ALL_CLASSES}"] = map_of_tiles(opened, one.index, run.grid.shape)
    return maps


def _decide_pooling(
    head: MILModel, levels: Sequence[Run], count: int, classes: tuple[str, ...]
) -> Decision:
    """One bag a magnification, all of them pooled together."""
    import torch

    bags = [_usable(run, run.grid.indices(run.tissue)) for run in levels]
    looked = [len(index) for index, _ in bags]
    nothing: list[Maps] = [{} for _ in levels]
    if len(bags) < count or not all(looked):
        return Decision(nothing, looked, [0] * len(looked))
    output: MILOutput = head([torch.from_numpy(bag) for _, bag in bags])
    maps = []
    ends = np.cumsum(looked)
    for (index, _), run, end in zip(bags, levels, ends, strict=True):
        rows = slice(int(end) - len(index), int(end))
        weights = None if output.attention is None else output.attention[rows]
        part = replace(output, tile_scores=output.tile_scores[rows], attention=weights)
        maps.append(maps_from_output(part, index, run.grid.shape, classes))
    return Decision(maps, looked, [*looked[:-1], 0], output)


def _decide_side_by_side(
    head: MILModel, levels: Sequence[Run], ratios: Sequence[int], classes: tuple[str, ...]
) -> Decision:
    """The finest tiles, each descriptor followed by those of the coarser tiles around it."""
    finest = levels[-1]
    looked = [int(run.done - len(run.failures)) for run in levels]
    for run, usable in zip(levels, looked, strict=True):
        if run.complete:
            _require_any(run, usable)
    if len(levels) <= len(ratios) or not all(looked):
        return Decision([{} for _ in levels], looked, [0] * len(looked))
    indices: list[NDArray[np.int64]] = []
    output = evaluate_bag(head, lambda: side_by_side(levels, ratios, indices))
    used = len(output.tile_scores)
    maps: list[Maps] = [{} for _ in ratios]
    index = np.concatenate(indices)[:used]
    maps.append(maps_from_output(output, index, finest.grid.shape, classes))
    opened = [*looked[:-1], 0]
    return Decision(maps, [*looked[:-1], used], opened, output, left_out=looked[-1] - used)


def side_by_side(
    levels: Sequence[Run], ratios: Sequence[int], indices: list[NDArray[np.int64]]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Descriptors (n, M N) fine to coarse with corners, block by block of the finest tiles."""
    here: list[NDArray[np.int64]] = []
    for fine, corners in levels[-1].bag_blocks(here):
        parts = [fine]
        for above, run in enumerate(reversed(levels[:-1]), 1):
            parts.append(run.descriptors_of(here[-1] // prod(ratios[-above:])))
        usable = np.isfinite([part[:, 0] for part in parts]).all(axis=0)
        if usable.any():
            indices.append(here[-1][usable])
            yield np.concatenate(parts, axis=1)[usable], corners[usable]

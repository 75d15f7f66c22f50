"""Where a head looks on a watched slide: its maps, and the figures taken of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_wsi_xai.runs import top_tiles
from napari_wsi_xai.runs.maps import ALL_CLASSES, map_of_tiles, maps_from_output
from napari_wsi_xai.training.epoch_store import MOST_TOP_TILES, EpochMap
from napari_wsi_xai.training.figures import (
    SlideFigures,
    attention_entropy,
    localisation,
    map_correlation,
    share_on,
)

if TYPE_CHECKING:
    from napari_wsi_xai.models import MILModel, MILOutput
    from napari_wsi_xai.training.tile_encoder import TileEncoder
    from napari_wsi_xai.training.watched import WatchedSlide

__all__ = ["figures_of", "look_at", "main_map", "weights_of"]

Maps = dict[str, EpochMap]


def look_at(
    head: MILModel,
    slide: WatchedSlide,
    classes: tuple[str, ...],
    encoder: TileEncoder | None = None,
) -> tuple[Maps, float]:
    """Maps of a slide as the head stands, and the probability it gives to the slide's label.

    The head must be in evaluation mode; with ``encoder`` the bag is of tiles. Of several
    magnifications each has maps of its own, ``"attention/2 µm/px"``, NaN where the head did not
    look.
    """
    device = next(head.parameters()).device
    with torch.inference_mode():
        features: Any = slide.features if encoder is None else encoder.encode(slide.features)  # type: ignore[arg-type]
        output: MILOutput = head(_on(device, features), _on(device, slide.coords_level0))
        probability = float(head.probabilities(output.logits)[slide.place.label])
    grids = slide.place.grids
    if len(grids) > 1:
        return _maps_of_levels(output, slide), probability
    flat = maps_from_output(output, slide.indices[0], grids[0].shape, classes)
    return {key: EpochMap(values) for key, values in flat.items()}, probability


def _on(device: torch.device, bag: Any) -> Any:
    """A bag's tensors where the head is."""
    if isinstance(bag, tuple):
        return [part.to(device) for part in bag]
    return None if bag is None else bag.to(device)


def _maps_of_levels(output: MILOutput, slide: WatchedSlide) -> Maps:
    columns = {"tile-scores": output.tile_scores, "attention": output.attention}
    maps: Maps = {}
    start = 0
    for level, (grid, index) in enumerate(zip(slide.place.grids, slide.indices, strict=True)):
        rows = slice(start, start + len(index))
        start += len(index)
        looked = None
        for method, values in columns.items():
            if values is None:
                continue
            column = level if values.shape[1] == len(slide.indices) else 0
            part = values[rows, column].detach().float().cpu().numpy().copy()
            looked = np.isfinite(part) if looked is None else looked
            part[~looked] = np.nan  # attention is 0, not unknown, where the head did not look
            map_values = map_of_tiles(part, index, grid.shape)
            maps[f"{method}/{grid.mpp:g} µm/px"] = EpochMap(map_values, level)
    return maps


def main_map(maps: Mapping[str, NDArray[np.float32]], label: str) -> tuple[str, NDArray[Any]]:
    """The map that figures are taken of, with its method.

    Attention where the head has any, else tile scores; of them the one of the class ``label``,
    else the one for all classes, else the mean over the branches. Of several magnifications the
    one of the most tiles, the finest.
    """
    method = "attention" if any(key.startswith("attention/") for key in maps) else "tile-scores"
    own = {k.partition("/")[2]: v for k, v in maps.items() if k.startswith(f"{method}/")}
    for name in (label, ALL_CLASSES):
        if name in own:
            return method, own[name]
    most = max(values.size for values in own.values())
    finest = [values for values in own.values() if values.size == most]
    return method, np.mean(finest, axis=0)


def weights_of(method: str, values: NDArray[Any]) -> NDArray[Any]:
    """What a map says of where the head looks, none negative.

    Attention as it is; of tile scores the positive part: what speaks for the class.
    """
    return values if method == "attention" else np.maximum(values, 0)


def figures_of(
    slide: WatchedSlide,
    maps: Mapping[str, NDArray[np.float32]],
    before: Mapping[str, NDArray[np.float32]],
    label: str,
    probability: float,
) -> SlideFigures:
    """Figures of one slide.

    Parameters
    ----------
    slide
        The slide.
    maps, before
        Its maps (rows, cols) now and the time before; none before the first.
    label
        Name of the slide's class.
    probability
        Of the slide's class.
    """
    method, values = main_map(maps, label)
    weights = weights_of(method, values)
    glass = None if slide.tissue is None else 1 - slide.tissue
    best = top_tiles(values, slide.place.grids[-1], MOST_TOP_TILES)
    nothing = np.full_like(values, np.nan)
    return SlideFigures(
        entropy=attention_entropy(weights),
        correlation=map_correlation(values, main_map(before, label)[1] if before else nothing),
        localisation=localisation(values, slide.truth),
        excluded=share_on(weights, slide.excluded),
        outside_tissue=share_on(weights, glass),
        probability=probability,
        top=tuple((tile.row, tile.column) for tile in best),
    )

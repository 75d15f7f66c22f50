"""Runs over several magnifications as layers: attention at each, frames around what was opened."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_wsi_xai.viewer.colours import class_colour
from napari_wsi_xai.viewer.map_styles import map_name, map_style
from napari_wsi_xai.viewer.pictures import OPENED_TILES, FramesPicture, MapPicture, Picture
from napari_wsi_xai.viewer.zoom_frames import finest_opening
from napari_wsi_xai.viewer.zoom_snapshot import ZoomFacts, ZoomSnapshot, magnification

if TYPE_CHECKING:
    from napari.utils.colormaps import CyclicLabelColormap

__all__ = ["zoom_pictures"]


def zoom_pictures(facts: ZoomFacts, snapshot: ZoomSnapshot) -> list[Picture]:
    """What the run's layers show, bottom to top: coarse to fine attention, then frames.

    A magnification has a layer from its turn on; the frames come with the first opened tiles.
    """
    shown: list[Picture] = []
    for level in snapshot.levels:
        if level.attention is None or level.grid is None:
            continue
        where = magnification(level.trace.mpp)
        key = f"attention/{where}"
        style = map_style(key, level.attention)
        about = _about(facts, snapshot, "map", key) | {
            "colours": style.words,
            "limits": style.limits,
            "grid": level.grid.to_dict(),
            "provisional": not level.complete,
            "mpp": level.trace.mpp,
            "tiles": (level.trace.read, level.total),
        }
        name = map_name(facts.name, f"attention/{level.target or 'all'}") + f" · {where}"
        shown.append(MapPicture(key, name, level.attention, style, level.grid, about))
    if snapshot.labels.any():
        shown.append(_frames(facts, snapshot))
    return shown


def _frames(facts: ZoomFacts, snapshot: ZoomSnapshot) -> FramesPicture:
    last = finest_opening(len(facts.grids))
    about = _about(facts, snapshot, OPENED_TILES, OPENED_TILES) | {
        "colours": "one colour a magnification",
        "limits": None,
        "grid": facts.grids[last].to_dict(),
        "provisional": not snapshot.complete,
    }
    return FramesPicture(
        key=OPENED_TILES,
        name=f"{facts.name} · {OPENED_TILES}",
        labels=snapshot.labels,
        features=snapshot.features,
        parts=snapshot.parts,
        grid=facts.grids[last],
        about=about,
        colormap=_colours(last + 1),
    )


def _about(facts: ZoomFacts, snapshot: ZoomSnapshot, kind: str, key: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "key": key,
        "source": facts.source,
        "slide": facts.name,
        "store": facts.store,
        "group": facts.group,
        "model": facts.model,
        "probabilities": dict(snapshot.probabilities),
        "standing": snapshot.standing,
        "failed": snapshot.failed,
    }


@lru_cache
def _colours(magnifications: int) -> CyclicLabelColormap:
    """One colour a magnification, whatever number of tiles is opened."""
    from napari.utils.colormaps import CyclicLabelColormap

    colours = [(0.0, 0.0, 0.0, 0.0)]
    colours += [(*class_colour(number), 1.0) for number in range(magnifications)]
    return CyclicLabelColormap(colors=np.array(colours, dtype=np.float32), background_value=0)

"""OME-Zarr 0.5 metadata of a pyramid, as written by the conversion and served by the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from napari_wsi_xai.geometry import Mpp

__all__ = ["OWN_ATTRIBUTES", "ome_attributes"]

OWN_ATTRIBUTES = "napari-wsi-xai"
"""Key beside ``ome`` under which bounds, background and objective power are kept."""


def ome_attributes(
    name: str, paths: Sequence[str], downsamples: Sequence[float], mpp: Mpp | None
) -> dict[str, Any]:
    """Group attributes ``{"ome": ...}`` of an RGB pyramid with axes (c, y, x).

    Micrometres where ``mpp`` is known; otherwise level-0 pixels, with no unit stated. A pixel's
    coordinate is its centre, hence the translation ``(downsample - 1) / 2`` of coarser levels.

    Parameters
    ----------
    name
        Name of the image.
    paths
        Path of each level's array, finest first.
    downsamples
        Level-0 pixels per pixel of each level.
    mpp
        Micrometres per level-0 pixel (y, x).
    """
    space: dict[str, str] = {"type": "space"} | ({"unit": "micrometer"} if mpp else {})
    y_um, x_um = mpp or (1.0, 1.0)
    datasets = []
    for path, ds in zip(paths, downsamples, strict=True):
        shift = (ds - 1) / 2
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [1.0, y_um * ds, x_um * ds]}]
        if shift:
            translation = [0.0, y_um * shift, x_um * shift]
            transforms.append({"type": "translation", "translation": translation})
        datasets.append({"path": path, "coordinateTransformations": transforms})
    axes = [{"name": "c", "type": "channel"}, {"name": "y", **space}, {"name": "x", **space}]
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [
        {"label": label, "color": colour, "active": True, "window": window}
        for label, colour in (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
    ]
    return {
        "ome": {
            "version": "0.5",
            "multiscales": [{"name": name, "axes": axes, "datasets": datasets}],
            "omero": {"channels": channels, "rdefs": {"model": "color"}},
        }
    }

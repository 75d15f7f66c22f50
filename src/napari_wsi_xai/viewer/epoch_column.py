"""The tiles that a head looks at most, epoch by epoch, as a column of pictures beside the slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_wsi_xai.viewer.slide_layers import AXES, METADATA_KEY, LayerData, Placement

if TYPE_CHECKING:
    from napari_wsi_xai.training.epoch_arrays import Thumbnails

__all__ = ["EPOCH_TILES", "column_layer_data", "column_of"]

EPOCH_TILES = "epoch top tiles"
"""``kind`` of these layers in ``layer.metadata["napari_wsi_xai"]``."""

GAP = 1 / 12
"""Between two tiles, of a tile's edge."""

MARGIN = 1 / 4
"""Between slide and column, likewise."""

LEAST = 1 / 2
"""Least height of the column, of the slide's width: beside a wide slide it is higher than that."""


def column_of(pictures: Thumbnails) -> NDArray[np.uint8]:
    """Thumbnails (t, rank, px, px, 3) one below the other, the best on top: (t, y, x, 3).

    Gaps are black, as napari's canvas.
    """
    count, ranks, px, _, colours = pictures.shape
    step = px + round(GAP * px)
    column = np.zeros((count, ranks * step - (step - px), px, colours), dtype=np.uint8)
    for rank in range(ranks):
        column[:, rank * step : rank * step + px] = pictures[:, rank]
    return column


def column_layer_data(
    pictures: Thumbnails,
    placement: Placement,
    shape_level0: tuple[int, int],
    keywords: dict[str, Any],
) -> LayerData:
    """Layer data tuple: an image (t, y, x, 3) on the slide's right, as high as the slide.

    Beside a wide slide it is half as high as that is wide, so that a view of all shows the tiles.

    Parameters
    ----------
    pictures
        (t, rank, px, px, 3).
    placement
        Where the slide lies.
    shape_level0
        Size of the slide in level-0 pixels, yx.
    keywords
        Name, visibility and metadata of the layer, and label and unit of its axis of epochs.
    """
    data = column_of(pictures)
    scale, start = np.asarray(placement.scale), np.asarray(placement.translate)
    low = start - scale / 2  # corner of the first pixel
    height, width = np.asarray(shape_level0) * scale
    pixel = max(height, LEAST * width) / data.shape[1]
    right = low[1] + width + MARGIN * pictures.shape[2] * pixel
    axis = keywords.pop("axis")
    about = keywords.pop("about") | {"kind": EPOCH_TILES}
    return (
        data,
        {
            **keywords,
            "rgb": True,
            "contrast_limits": (0, 255),
            "interpolation2d": "linear",
            "blending": "translucent_no_depth",
            "scale": (1.0, pixel, pixel),
            "translate": (1.0, low[0] + pixel / 2, right + pixel / 2),
            "units": ("pixel", *placement.units),
            "axis_labels": (axis, *AXES),
            "metadata": {METADATA_KEY: about},
        },
        "image",
    )

"""What the ``info`` command prints of a slide."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from napari_wsi_xai.slides.slide import Slide

__all__ = ["slide_info"]


def slide_info(slide: Slide) -> dict[str, Any]:
    """Facts of a slide that can be written as JSON, without pixels and without free-text metadata.

    Sizes and pairs are (y, x). Of label and macro images only names and sizes are told; they are
    not decoded.
    """
    height, width = slide.shape
    mpp = slide.mpp
    levels = [
        {
            "level": i,
            "shape": list(shape),
            "downsample": step,
            "mpp": None if mpp is None else [mpp[0] * step, mpp[1] * step],
        }
        for i, (shape, step) in enumerate(zip(slide.level_shapes, slide.downsamples, strict=True))
    ]
    return {
        "name": slide.name,
        "source": slide.source,
        "backend": slide.backend,
        "vendor": slide.vendor,
        "shape": [height, width],
        "size_um": None if mpp is None else [height * mpp[0], width * mpp[1]],
        "mpp": None if mpp is None else list(mpp),
        "mpp_source": slide.mpp_source,
        "objective_power": slide.objective_power,
        "levels": levels,
        "bounds_level0": asdict(slide.bounds),
        "background": list(slide.background),
        "associated_images": {k: list(v) for k, v in slide.associated_sizes.items()},
        "fingerprint": slide.fingerprint,
    }

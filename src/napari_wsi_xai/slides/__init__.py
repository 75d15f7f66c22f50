"""Slides: any whole-slide image as a read-only multiscale Zarr pyramid.

:func:`open_slide` picks a backend (OpenSlide, TIFF or OME-Zarr, each imported only when needed)
and returns a :class:`Slide`; :func:`convert_slide` writes one as OME-Zarr 0.5.
"""

from napari_wsi_xai.slides.conversion import convert_slide
from napari_wsi_xai.slides.slide import Slide
from napari_wsi_xai.slides.sources import open_slide
from napari_wsi_xai.slides.summary import slide_info

__all__ = ["Slide", "convert_slide", "open_slide", "slide_info"]

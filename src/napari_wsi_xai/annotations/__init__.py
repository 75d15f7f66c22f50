"""Polygons drawn by people or programs: read, written, and laid over tiles and masks.

One file format lives in one module; all of them give :class:`Annotation` objects whose geometries
are in level-0 pixels. Inside a geometry points are (x, y), as in the files; everything else in
this package is yx.
"""

from napari_wsi_xai.annotations.annotation import Annotation
from napari_wsi_xai.annotations.coverage import cover_fraction, rasterise
from napari_wsi_xai.annotations.geojson import read_geojson, write_geojson

__all__ = ["Annotation", "cover_fraction", "rasterise", "read_geojson", "write_geojson"]

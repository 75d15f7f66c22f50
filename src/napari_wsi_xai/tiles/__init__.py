"""From a slide to tiles: the exact grid, the tissue on it, and the pixels of any tile."""

from napari_wsi_xai.tiles.grid import TileGrid, tile_grid
from napari_wsi_xai.tiles.nested import children_of, mpp_ratios, nested_grids, parents_of
from napari_wsi_xai.tiles.overview import Overview, read_overview
from napari_wsi_xai.tiles.pixels import read_tiles
from napari_wsi_xai.tiles.prefetch import prefetch
from napari_wsi_xai.tiles.tissue import Tissue, TissueMask, TissueOptions, tissue_mask, tissue_tiles

__all__ = [
    "Overview",
    "TileGrid",
    "Tissue",
    "TissueMask",
    "TissueOptions",
    "children_of",
    "mpp_ratios",
    "nested_grids",
    "parents_of",
    "prefetch",
    "read_overview",
    "read_tiles",
    "tile_grid",
    "tissue_mask",
    "tissue_tiles",
]

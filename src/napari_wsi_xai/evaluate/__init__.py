"""Maps measured against ground truth."""

from napari_wsi_xai.evaluate.localisation import Localisation, localisation_auc, tile_truth

__all__ = ["Localisation", "localisation_auc", "tile_truth"]

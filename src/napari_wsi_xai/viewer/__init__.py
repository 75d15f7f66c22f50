"""napari: slides and runs as layers, and the widget *Score slide*."""

from napari_wsi_xai.viewer.layers import add_layers, run_layer_data, update_layers

__all__ = ["add_layers", "run_layer_data", "update_layers"]

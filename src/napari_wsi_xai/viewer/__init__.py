"""napari: slides and runs as layers, and the widget *Score slide*."""

from .layers import add_layers, run_layer_data, update_layers

__all__ = ["add_layers", "run_layer_data", "update_layers"]

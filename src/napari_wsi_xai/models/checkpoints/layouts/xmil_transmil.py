"""TransMIL as xMIL names it (bifold-pathomics/xMIL)."""

from __future__ import annotations

from typing import Any

from napari_wsi_xai.models.checkpoints.layout import Layout, Tensors
from napari_wsi_xai.models.checkpoints.layouts.transmil import (
    COMMON_NAMES,
    layer_names,
    size_arguments,
)

__all__ = ["LAYOUTS"]


def _arguments(tensors: Tensors) -> dict[str, Any]:
    layers = {name.split(".")[1] for name in tensors if name.startswith("translayers.")}
    return {**size_arguments(tensors, "translayers.0"), "n_layers": len(layers)}


LAYOUTS = (
    Layout(
        "xmil-transmil",
        "bifold-pathomics/xMIL TransMIL",
        {**COMMON_NAMES, **layer_names("translayers.*", "layers.*")},
        _arguments,
        optional=frozenset({"translayers.*.attn.res_conv.weight"}),
    ),
)

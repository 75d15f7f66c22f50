"""The model shipped with the package, made by :mod:`napari_wsi_xai.demo.train`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["MODEL_PATH", "demo_model_path"]

MODEL_PATH = Path(__file__).with_name("demo-model.safetensors")


def demo_model_path() -> Path:
    """Bundle of the demo model: a small CNN and a gated attention head, normal against tumor."""
    return MODEL_PATH

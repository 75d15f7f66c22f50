"""The model shipped with the package, made by ``napari-wsi-xai train`` from slide labels."""

from __future__ import annotations

from pathlib import Path

__all__ = ["MODEL_PATH", "RECIPE_PATH", "demo_model_path"]

MODEL_PATH = Path(__file__).with_name("demo-model.safetensors")

RECIPE_PATH = MODEL_PATH.with_suffix(".yaml")
"""How it was trained; its bundle holds the same, the slides and what the test slides say."""


def demo_model_path() -> Path:
    """Bundle of the demo model: a small CNN and a gated attention head, normal against tumor."""
    return MODEL_PATH

"""A demo that means something: procedural slides with exact ground truth, and a trained model.

Names are imported on first use: the generator needs no torch, and its import costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_wsi_xai.demo.cohort import make_cohort
    from napari_wsi_xai.demo.model import demo_model_path
    from napari_wsi_xai.demo.render import Scene
    from napari_wsi_xai.demo.run import DemoResult, run_demo
    from napari_wsi_xai.demo.slide import DemoSlide, make_demo_slide

__all__ = [
    "DemoResult",
    "DemoSlide",
    "Scene",
    "demo_model_path",
    "make_cohort",
    "make_demo_slide",
    "run_demo",
]

_HOME_OF = {
    "DemoResult": "run",
    "DemoSlide": "slide",
    "Scene": "render",
    "demo_model_path": "model",
    "make_cohort": "cohort",
    "make_demo_slide": "slide",
    "run_demo": "run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

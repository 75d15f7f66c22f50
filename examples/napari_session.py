"""Score a slide and show its maps over it in napari.

    python examples/napari_session.py slide.svs model/

Without arguments it draws a small demo slide in a temporary folder and takes the shipped model.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import napari

from napari_wsi_xai import add_layers, load_model, open_slide, score


def demo() -> tuple[str, str]:
    """A small slide and the shipped model."""
    from napari_wsi_xai.demo import demo_model_path, make_demo_slide

    folder = Path(tempfile.mkdtemp())
    slide = make_demo_slide(folder / "demo.tif", shape=(2048, 2048))
    return str(slide.path), str(demo_model_path())


def show(viewer: napari.Viewer, slide_path: str, model_path: str) -> None:
    """Open the slide, score it, and lay its maps and top tiles over it."""
    viewer.open(slide_path, plugin="napari-wsi-xai")
    run = score(open_slide(slide_path), load_model(model_path)).compute()
    for layer in add_layers(viewer, run):
        print(f"{layer.name}: {layer.metadata['napari_wsi_xai']['colours']}")
    print({name: round(p, 3) for name, p in run.probabilities.items()})


if __name__ == "__main__":
    viewer = napari.Viewer()
    show(viewer, *(sys.argv[1:3] or demo()))
    napari.run()

r"""A picture of a training that is watched: a head that learns pen strokes instead of tumour.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/epoch_pictures.py \
        --folder /tmp/pen --images docs/images

Makes a cohort of procedural slides whose tumour slides all bear a pen stroke, trains a head on
their labels with two slides watched and a rule on excluded regions, and opens what was watched:
``epochs.png`` is the window at the last epoch. What is in the folder already is gone on with.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import napari
from first_tiles import shrink
from qtpy.QtCore import QTimer

from napari_wsi_xai.viewer.epoch_words import MARGIN

RULE = "stop when attention on excluded > 0.5 for 3 epochs"

WATCHED = ("test_0000", "test_0002")


def train(options: argparse.Namespace) -> Path:
    """The store of what was watched; in processes of their own, torch must not meet the window."""
    folder = options.folder
    python = [sys.executable, "-m"]
    made = ["--out", folder / "cohort", "--bias", "pen", "--seed", "3"]
    sizes = ["--train", "14", "--test", "6", "--side-px", options.size]
    _run([*python, "napari_wsi_xai.demo.cohort", *made, *sizes])
    from napari_wsi_xai.demo import demo_model_path

    words = ["train", folder / "cohort" / "cohort.csv", "--features", folder / "cohort" / "slides"]
    words += ["--out", folder / "out", "--encoder", demo_model_path(), "--tile-px", "128"]
    words += ["--head", "abmil", "--set", "epochs=30", "--set", "lr=2e-3", "--rule", RULE]
    words += [part for name in WATCHED for part in ("--watch", name)]
    _run([*python, "napari_wsi_xai", *words])
    return Path(folder / "out" / "epochs.wsixai.zarr")


def _run(command: list[object]) -> None:
    subprocess.run([str(word) for word in command], check=True)


def show(store: Path, picture: Path) -> None:
    """Open a store and take a picture of the window."""
    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1560, 960)
    viewer.open(str(store), plugin="napari-wsi-xai")

    def take() -> None:
        viewer.screenshot(str(picture), canvas_only=False, flash=False)
        QTimer.singleShot(500, viewer.close)

    QTimer.singleShot(1000, lambda: viewer.reset_view(margin=MARGIN))  # the window has its size now
    QTimer.singleShot(3000, take)
    napari.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for slides and training")
    parser.add_argument("--size", type=int, default=3072, help="side of a slide in pixels")
    parser.add_argument("--images", type=Path, required=True, help="folder for the picture")
    options = parser.parse_args()
    options.images.mkdir(parents=True, exist_ok=True)
    show(train(options), options.images / "epochs.png")
    shrink(options.images, "", ("epochs",))


if __name__ == "__main__":
    main()

r"""Pictures of the window: an author's checkpoint in the form, and a model that zooms.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/window_pictures.py \
        --slide slide.svs --checkpoint aggregator.pth --images docs/images

``checkpoint-widget.png`` is the form with the checkpoint recognised; ``zoom-trace.png`` the window
after a run over three magnifications. That model has random weights, so what it opens means
nothing; ``--encoder squeezenet1_1 --weights FILE`` at least describes tiles by a trained network.
Prints the longest gaps between beats of a 5 ms timer during the run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import napari
from first_tiles import Heartbeat, shrink
from qtpy.QtCore import QTimer

MARGIN_PX = 12

MAKE_MODEL = """
import sys
from dataclasses import replace
import torch
from napari_wsi_xai.models import build_encoder, build_model, save_model
name, weights, tile_px, opened, mpps, path = sys.argv[1:]
model = build_model(
    build_encoder(name, weights=weights or None),
    "zoommil",
    tile_px=int(tile_px),
    mpp=tuple(map(float, mpps.split(","))),
    seed=5,
    k_sample=int(opened),
)
with torch.no_grad():  # random weights weigh all tiles alike; the picture is to show differences
    for attention in (*model.mil.attentions, *model.mil.selections):
        for tensor in attention.parameters():
            tensor.mul_(3)
save_model(replace(model), path)  # made again for its content hash
"""


class Scenes:
    """One window: first the form with a checkpoint, then a run that zooms."""

    def __init__(self, options: argparse.Namespace, model: str, folder: str) -> None:
        self.options, self.model = options, model
        self.failed = ""
        self.viewer = napari.Viewer(show=True)
        self.viewer.window._qt_window.resize(1560, 960)
        self.viewer.open(options.slide, plugin="napari-wsi-xai")
        _, self.widget = self.viewer.window.add_plugin_dock_widget("napari-wsi-xai", "Score slide")
        self.widget.more.folder.value = folder
        QTimer.singleShot(2000, self._choose if options.checkpoint else self._score)

    def _choose(self) -> None:
        fields = self.widget.model
        fields.kind.value = "Checkpoint"
        fields.checkpoint._examination.answered.connect(
            lambda _: QTimer.singleShot(800, self._form_is_there)
        )
        fields.checkpoint.file.value = self.options.checkpoint
        fields.encoder.value = self.options.checkpoint_encoder

    def _form_is_there(self) -> None:
        dock = self.widget.native.parent()
        used = self.widget.buttons.native.mapTo(
            dock, self.widget.buttons.native.rect().bottomLeft()
        )
        picture = dock.grab(dock.rect().adjusted(0, 0, 0, used.y() + MARGIN_PX - dock.height()))
        picture.save(str(self.options.images / "checkpoint-widget.png"))
        QTimer.singleShot(200, self._score)

    def _score(self) -> None:
        self.widget.model.kind.value = "Model bundle"
        self.widget.model.bundle.value = self.model
        self.heart = Heartbeat()
        self.heart.phase = "zoom run"
        self.widget.score.native.click()
        live = self.widget._live
        live.finished.connect(lambda _: self._end())
        live.failed.connect(self._failed)

    def _failed(self, event: Any) -> None:
        self.failed = event.message
        self._end()

    def _end(self) -> None:
        QTimer.singleShot(1500, self._last_picture)

    def _last_picture(self) -> None:
        self.heart.stop()
        path = self.options.images / "zoom-trace.png"
        self.viewer.screenshot(str(path), canvas_only=False, flash=False)
        QTimer.singleShot(500, self.viewer.close)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", required=True)
    parser.add_argument("--checkpoint", help="an author's file; without it only the run is shown")
    parser.add_argument("--checkpoint-encoder", default="resnet18")
    parser.add_argument("--encoder", default="resnet18", help="network of the model that zooms")
    parser.add_argument("--weights", help="state-dict file of that network; default: random")
    parser.add_argument("--tile-px", type=int, default=64)
    parser.add_argument("--mpps", default="2,1,0.5", help="um per pixel, coarse to fine")
    parser.add_argument("--opened", type=int, default=8, help="tiles opened at a magnification")
    parser.add_argument("--images", type=Path, required=True, help="folder for the pictures")
    options = parser.parse_args()
    options.images.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder) / "zoom-model")
        made = [options.encoder, options.weights or "", str(options.tile_px), str(options.opened)]
        # In another process: torch must not be in the window's memory.
        command = [sys.executable, "-c", MAKE_MODEL, *made, options.mpps, model]
        subprocess.run(command, check=True)
        scenes = Scenes(options, model, folder)
        napari.run()
    shrink(options.images, "", ("checkpoint-widget", "zoom-trace"))
    print(json.dumps(scenes.heart.report(), indent=1))
    if scenes.failed:
        raise SystemExit(scenes.failed)


if __name__ == "__main__":
    main()

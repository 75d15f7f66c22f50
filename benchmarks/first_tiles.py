"""How soon tiles light up in a real napari window, and how well the window answers meanwhile.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/first_tiles.py
    ... python benchmarks/first_tiles.py --slide slide.svs --encoder resnet50
    ... python benchmarks/first_tiles.py --images docs/images

Opens a slide (the demo slide by default), opens the widget, waits, presses *Score*, and prints as
JSON: seconds from *Score* to the first coloured tiles on the screen and to the end; and the gaps
between the beats of a 5 ms timer in phases on the same display: an idle window; napari adding two
layers without this plugin, for comparison; the widget opening; from *Score* to the first tiles;
from there to the end. For gaps over 100 ms it says how long of that the main thread ran, how long
it waited for a processor (Linux), and in which functions it stood. ``--busy`` lets that many
processes burn a core each meanwhile, ``--pan`` moves the camera all the time.

``--images`` keeps a picture of the window at the first coloured tiles and one at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QTimer

BEAT_MS = 5
LONG_S = 0.1
IDLE_S = 5.0

MAKE_MODEL = """
import sys
from napari_wsi_xai.models import build_encoder, build_model, save_model
name, weights, path = sys.argv[1:]
save_model(build_model(build_encoder(name, weights=weights or None), "abmil"), path)
"""


class Heartbeat:
    """Times between the beats of a timer of the main thread, by phase."""

    def __init__(self) -> None:
        self.gaps: dict[str, list[float]] = {}
        self.stood: dict[str, Counter[str]] = {}
        self.phase = "start"
        self._last = time.perf_counter()
        self._timer = QTimer()
        self._timer.timeout.connect(self._beat)
        self._timer.start(BEAT_MS)
        self._main = threading.get_ident()
        self._schedule = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._before = self._scheduled()
        self.long: dict[str, list[dict[str, float]]] = {}
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _scheduled(self) -> tuple[float, float]:
        """Milliseconds the main thread ran, and waited for a processor though it could run."""
        if not self._schedule.exists():
            return 0.0, 0.0
        ran, waited, _ = self._schedule.read_text().split()
        return int(ran) / 1e6, int(waited) / 1e6

    def _beat(self) -> None:
        now = time.perf_counter()
        gap = now - self._last
        after = self._scheduled()
        self.gaps.setdefault(self.phase, []).append(gap)
        if gap > LONG_S:
            ran, queued = (b - a for a, b in zip(self._before, after, strict=True))
            values = {"gap_ms": gap * 1000, "ran_ms": ran, "queued_ms": queued}
            values = {key: round(value) for key, value in values.items()}
            self.long.setdefault(self.phase, []).append(values)
        self._before = after
        self._last = now

    def _watch(self) -> None:
        """Note where the main thread stands while a beat is overdue."""
        while not self._stop.wait(0.02):
            if time.perf_counter() - self._last > LONG_S * 0.6:
                frame = sys._current_frames().get(self._main)
                places = []
                while frame is not None and len(places) < 6:
                    code = frame.f_code
                    places.append(f"{Path(code.co_filename).name}:{code.co_name}")
                    frame = frame.f_back
                self.stood.setdefault(self.phase, Counter())[" < ".join(places)] += 1

    def stop(self) -> None:
        """Stop beating."""
        self._timer.stop()
        self._stop.set()

    def report(self) -> dict[str, Any]:
        """Numbers of each phase."""
        found = {}
        for phase, gaps in self.gaps.items():
            values = np.array(gaps) * 1000
            found[phase] = {
                "beats": len(values),
                "median_ms": round(float(np.median(values)), 1),
                "p99_ms": round(float(np.quantile(values, 0.99)), 1),
                "longest_ms": [round(float(v), 1) for v in np.sort(values)[::-1][:5]],
                "over_100_ms": int((values > LONG_S * 1000).sum()),
                "long": self.long.get(phase, []),
                "stood_in": self.stood.get(phase, Counter()).most_common(4),
            }
        return found


class Session:
    """One window, from opening the slide to the end of the run."""

    def __init__(self, slide: str, model: str | None, folder: str, options: Any) -> None:
        self.options = options
        self.images: Path | None = options.images
        self.viewer = napari.Viewer(show=True)
        self.viewer.window._qt_window.resize(1560, 960)
        if slide == "demo":
            self.viewer.open_sample("napari-wsi-xai", "demo_slide")
            # Coloured outlines would compete with the maps in the pictures.
            self.viewer.layers[-1].visible = False
            self.viewer.layers.selection.active = self.viewer.layers[0]
        else:
            self.viewer.open(slide, plugin="napari-wsi-xai")
        self.heart = Heartbeat()
        self.times: dict[str, float] = {}
        self._model, self._folder = model, folder
        self.failed = ""
        self._panning = QTimer()
        self._panning.timeout.connect(self._pan)
        QTimer.singleShot(3000, self._idle)

    def _idle(self) -> None:
        self.heart.phase = "idle"
        if self.options.pan:
            self._panning.start(300)
        # Pictures show nothing but the plugin's layers.
        after = self._reference if self.images is None else self._open_widget
        QTimer.singleShot(int(IDLE_S * 1000), after)

    def _reference(self) -> None:
        """What napari itself takes for an image and a labels layer, for comparison."""
        self.heart.phase = "napari alone adds layers"
        values = np.zeros((40, 40))
        units = ("um", "um")
        added = [self.viewer.add_image(values, contrast_limits=(0, 1), units=units)]

        def labels() -> None:
            added.append(self.viewer.add_labels(values.astype(np.uint8), units=units))
            QTimer.singleShot(500, lambda: self._hide(added))

        QTimer.singleShot(500, labels)

    def _hide(self, added: list[Any]) -> None:
        """Hide, not remove: drawing after a removal crashes some software renderers."""
        for layer in added:
            layer.visible = False
        self.viewer.layers.selection.active = self.viewer.layers[0]
        QTimer.singleShot(1000, self._open_widget)

    def _open_widget(self) -> None:
        self.heart.phase = "widget"
        _, self.widget = self.viewer.window.add_plugin_dock_widget("napari-wsi-xai", "Score slide")
        if self._model is not None:
            self.widget.model.kind.value = "Model bundle"
            self.widget.model.bundle.value = self._model
        self.widget.more.folder.value = self._folder
        QTimer.singleShot(int(self.options.wait * 1000), self._score)

    def _pan(self) -> None:
        y, x = self.viewer.scene.camera.center[-2:]
        step = 40 * np.sign(np.sin(time.perf_counter()))
        self.viewer.scene.camera.center = (0, y + step, x + step)

    def _score(self) -> None:
        self.heart.phase = "to first tiles"
        self._pressed = time.perf_counter()
        self.widget.score.native.click()
        live = self.widget._live
        live.preparing.connect(self._note)
        live.stepped.connect(self._stepped)
        live.finished.connect(self._finished)
        live.failed.connect(self._failed)

    def _note(self, message: str) -> None:
        self.times[message] = round(time.perf_counter() - self._pressed, 2)

    def _stepped(self, event: Any) -> None:
        if event.snapshot is not None and "first coloured tiles" not in self.times:
            # The canvas paints at the next turn of the event loop.
            self.times["first coloured tiles"] = 0.0
            QTimer.singleShot(0, self._first_tiles)

    def _first_tiles(self) -> None:
        self.viewer.window._qt_viewer.canvas.native.repaint()
        self._note("first coloured tiles")
        if self.images is not None:
            QTimer.singleShot(50, lambda: self._picture("first-tiles"))
        self.heart.phase = "to the end"

    def _finished(self, event: Any) -> None:
        self._note("end")
        self._end()

    def _failed(self, event: Any) -> None:
        self.failed = event.message
        self._end()

    def _end(self) -> None:
        self.heart.stop()
        self._panning.stop()
        if self.images is not None:
            QTimer.singleShot(400, lambda: self._picture("finished"))
        QTimer.singleShot(1500, self.viewer.close)

    def _picture(self, name: str) -> None:
        assert self.images is not None
        self.images.mkdir(parents=True, exist_ok=True)
        path = self.images / f"{self.options.prefix}{name}.png"
        self.viewer.screenshot(str(path), canvas_only=False, flash=False)


def shrink(folder: Path, prefix: str, names: tuple[str, ...] = ("first-tiles", "finished")) -> None:
    """Reduce the pictures to 256 colours: a third of the size, and no difference to be seen."""
    from PIL import Image

    for name in names:
        path = folder / f"{prefix}{name}.png"
        if path.is_file():
            picture = (
                Image.open(path).convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.NONE)
            )
            picture.save(path, optimize=True)


def make_model(options: Any, folder: str) -> str | None:
    """A bundle made in another process: torch must not be in memory before *Score*."""
    if options.encoder is None:
        return None
    path = str(Path(folder) / "model")
    command = [sys.executable, "-c", MAKE_MODEL, options.encoder, options.weights or "", path]
    subprocess.run(command, check=True)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", default="demo", help="a slide; the demo slide by default")
    parser.add_argument("--encoder", help="network with random weights; default: the demo model")
    parser.add_argument("--weights", help="state-dict file of the encoder")
    parser.add_argument("--wait", type=float, default=8.0, help="seconds from widget to Score")
    parser.add_argument("--busy", type=int, default=0, help="processes that burn a core each")
    parser.add_argument("--pan", action="store_true", help="move the camera meanwhile")
    parser.add_argument("--images", type=Path, help="folder for pictures of the window")
    parser.add_argument("--prefix", default="", help="beginning of the pictures' names")
    options = parser.parse_args()
    burners = [subprocess.Popen([sys.executable, "-c", "while 1: 0"]) for _ in range(options.busy)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            model = make_model(options, folder)
            session = Session(options.slide, model, folder, options)
            napari.run()
    finally:
        for burner in burners:
            burner.kill()
    if options.images is not None:
        shrink(options.images, options.prefix)
    print(json.dumps({"seconds": session.times, "gaps": session.heart.report()}, indent=1))
    if session.failed:
        raise SystemExit(session.failed)


if __name__ == "__main__":
    main()

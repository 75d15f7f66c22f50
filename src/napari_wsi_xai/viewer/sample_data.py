"""Sample data: the demo slide with the outlines of its tumour nests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from napari_wsi_xai.errors import RunError
from napari_wsi_xai.viewer.settings import cache_folder
from napari_wsi_xai.viewer.slide_layers import METADATA_KEY, LayerData, slide_layer_data

__all__ = ["demo_slide", "truth_layer_data"]

SEED = 2026
SHAPE = (6144, 6144)
TRUTH_COLOUR = "#39d98a"

Report = Callable[[int, int], None]


def demo_slide() -> list[LayerData]:
    """The demo slide and its ground truth; drawn when first asked for, then kept.

    napari calls this on the main thread. Drawing takes several seconds, so it happens in another
    thread while the window goes on answering behind a progress dialog.

    Raises
    ------
    RunError
        The user cancelled, or the slide cannot be drawn.
    """
    path = cache_folder() / f"demo-{SEED}-{SHAPE[0]}" / "demo-slide.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _is_whole(path):
        _draw_with_dialog(path)
    return [*_slide(path), truth_layer_data(path, _truth_path(path))]


def _slide(path: Path) -> list[LayerData]:
    from napari_wsi_xai.slides import open_slide

    return [slide_layer_data(open_slide(path))]


def truth_layer_data(slide_path: Path, truth_path: Path) -> LayerData:
    """Ground truth of a demo slide, a GeoJSON file, as Shapes in micrometres."""
    from napari_wsi_xai.annotations import read_geojson
    from napari_wsi_xai.slides import open_slide

    with open_slide(slide_path) as slide:
        mpp, name = slide.require_mpp(), slide.name
    polygons = [annotation.geometry for annotation in read_geojson(truth_path)]
    # napari puts pixel centres on whole numbers, the outlines' pixel corners are whole.
    rings = [np.asarray(one.exterior.coords)[:-1, ::-1] - 0.5 for one in polygons]
    keywords = {
        "name": f"{name} · ground truth",
        "shape_type": "polygon",
        "edge_color": TRUTH_COLOUR,
        "face_color": "transparent",
        "edge_width": 12,
        "scale": mpp,
        "translate": (0.0, 0.0),
        "units": ("um", "um"),
        "axis_labels": ("y", "x"),
        "features": {"class": ["tumor"] * len(rings)},
        "metadata": {METADATA_KEY: {"kind": "ground truth", "source": str(slide_path)}},
    }
    return rings, keywords, "shapes"


def _truth_path(slide_path: Path) -> Path:
    return slide_path.with_suffix(".geojson")


def _is_whole(path: Path) -> bool:
    return path.is_file() and _truth_path(path).is_file()


def _draw(path: Path, report: Report) -> None:
    """Draw slide and outlines; each file appears when it is whole."""
    from napari_wsi_xai.annotations import Annotation, write_geojson
    from napari_wsi_xai.demo import make_demo_slide

    demo = make_demo_slide(path, seed=SEED, shape=SHAPE, progress=report)
    truth = [Annotation(polygon, "tumour nest", "tumor") for polygon in demo.truth]
    write_geojson(_truth_path(path), truth)


class _CancelledError(Exception):
    """The user closed the dialog."""

    def __str__(self) -> str:
        return "cancelled."


def _draw_with_dialog(path: Path) -> None:
    """Draw in a thread; with Qt running, under a dialog."""
    work = _Drawing(path)
    if not _qt_runs():
        work.run()
    else:
        _show_until_done(work)
    if work.error is not None:
        raise RunError(f"the demo slide was not drawn: {work.error}") from work.error


class _Drawing(threading.Thread):
    """Draws the slide; its state may be read from any thread."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="demo slide", daemon=True)
        self.path = path
        self.done, self.total = 0, 1
        self.stop = False
        self.error: Exception | None = None

    def run(self) -> None:
        """Draw."""
        try:
            _draw(self.path, self._report)
        except Exception as error:  # handed to the main thread
            self.error = error

    def _report(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        if self.stop:
            raise _CancelledError


def _qt_runs() -> bool:
    try:
        from qtpy.QtWidgets import QApplication
    except (ImportError, RuntimeError):
        return False
    return QApplication.instance() is not None


def _show_until_done(work: _Drawing) -> None:
    """Run the window's event loop under a progress dialog until the thread is done."""
    from qtpy.QtCore import QEventLoop, Qt, QTimer
    from qtpy.QtWidgets import QApplication, QProgressDialog

    dialog: Any = QProgressDialog(
        "Drawing the demo slide, once: it is kept for the next time.",
        "Cancel",
        0,
        100,
        QApplication.activeWindow(),
    )
    dialog.setWindowTitle("Demo slide")
    dialog.setWindowModality(Qt.WindowModality.ApplicationModal)
    dialog.setMinimumDuration(0)
    dialog.setAutoClose(False)
    dialog.setAutoReset(False)
    loop = QEventLoop()
    timer = QTimer()

    def look() -> None:
        work.stop = work.stop or dialog.wasCanceled()
        dialog.setValue(min(99, round(100 * work.done / max(work.total, 1))))
        if not work.is_alive():
            loop.quit()

    timer.timeout.connect(look)
    work.start()
    timer.start(50)
    dialog.show()
    loop.exec()
    timer.stop()
    dialog.close()
    dialog.deleteLater()

"""A run on show: a worker thread listens to it, the main thread repaints its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from napari.qt.threading import GeneratorWorker, create_worker
from qtpy.QtCore import QObject, QTimer, Signal

from napari_wsi_xai.viewer.background import compile_labels, quiet_collector
from napari_wsi_xai.viewer.drain import Event, Failed, Finished, Planned, Preparing, Stepped
from napari_wsi_xai.viewer.layers import (
    add_layer_data,
    key_of,
    layers_of_run,
    pictures,
    show_colour_bars,
    update_with,
)
from napari_wsi_xai.viewer.slide_layers import (
    Placement,
    find_slide_layer,
    is_slide_layer,
    placement_on,
)
from napari_wsi_xai.viewer.view import camera_of, visible_region

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Layer

    from napari_wsi_xai.geometry import Region
    from napari_wsi_xai.viewer.pictures import Picture
    from napari_wsi_xai.viewer.states import AnyFacts, AnySnapshot

__all__ = ["LiveRun", "RunSource"]

CAMERA_SETTLES_MS = 150
"""The run hears of a new view once the camera has rested this long."""


class RunSource(Protocol):
    """A run that happens elsewhere: in another process, or in the worker thread itself."""

    def events(self) -> Iterator[Event]:
        """Do the work; called in the worker thread."""

    def cancel(self) -> None:
        """Stop after the forward pass under way."""

    def focus(self, region_level0: Region | None) -> None:
        """Do this rectangle of the slide first."""

    def abandon(self) -> None:
        """Stop at once."""


def _drain(source: RunSource) -> Iterator[Event]:
    """Events for the main thread; none of them before labels can be shown quickly."""
    with quiet_collector():
        compiling = compile_labels()
        for event in source.events():
            if isinstance(event, Planned):
                compiling.join()
            yield event


class _RunWorker(GeneratorWorker):  # type: ignore[misc]
    """A worker whose ``quit`` reaches into the work, so that closing napari need not wait.

    napari quits all workers when its window closes, and then waits for them.
    """

    def __init__(self, func: Callable[..., Any], source: RunSource) -> None:
        super().__init__(func, source)
        self._source = source

    def quit(self) -> None:
        """Stop at once."""
        super().quit()
        self._source.abandon()

    def work(self) -> Any:
        """Work, and tidy up here, not in the main thread."""
        try:
            return super().work()
        finally:
            self._gen.close()

    def _relay_warning(self, show_warn_args: tuple[Any, ...]) -> None:
        """Libraries' warnings are no news for the user."""


class LiveRun(QObject):  # type: ignore[misc]
    """Scores a slide in the background and keeps its layers up to date.

    Everything here runs on the main thread; the worker only sends events. Layers are added when
    the run is planned, or when a magnification begins, and filled in place. What the camera shows
    is scored first.

    Parameters
    ----------
    viewer
        Where layers go.
    source
        The run.
    parent
        Qt parent.

    Attributes
    ----------
    layers
        The run's layers that are still in the viewer.
    preparing, planned, stepped, finished, failed
        Signals with a message, a ``Planned``, ``Stepped``, ``Finished`` or ``Failed`` event;
        exactly one of the last two ends every run.
    """

    preparing = Signal(str)
    planned = Signal(object)
    stepped = Signal(object)
    finished = Signal(object)
    failed = Signal(object)

    def __init__(
        self, viewer: napari.viewer.Viewer, source: RunSource, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self.layers: list[Layer] = []
        self._viewer = viewer
        self._source = source
        self._slide_shape = (0, 0)
        self._facts: AnyFacts | None = None
        self._latest: AnySnapshot | None = None
        self._shown: list[Picture] = []
        self._known: set[str] = set()
        self._to_add: list[Picture] = []
        self._selected: Layer | None = None
        self._end: Finished | Failed | None = None
        self._worker = create_worker(
            _drain,
            source,
            _worker_class=_RunWorker,
            _start_thread=False,
            _ignore_errors=True,
        )
        self._worker.yielded.connect(self._receive)
        self._worker.finished.connect(self._worker_finished)
        self._next_layer = QTimer(self)
        self._next_layer.setSingleShot(True)
        self._next_layer.timeout.connect(self._add_next)
        self._camera_rests = QTimer(self)
        self._camera_rests.setSingleShot(True)
        self._camera_rests.setInterval(CAMERA_SETTLES_MS)
        self._camera_rests.timeout.connect(self._follow_camera)

    @property
    def running(self) -> bool:
        """Whether work is under way."""
        return self._end is None

    def start(self) -> None:
        """Start the worker."""
        camera_of(self._viewer).events.connect(self._camera_moved)
        self._viewer.layers.events.removed.connect(self._layer_removed)
        self._worker.start()

    def cancel(self) -> None:
        """Stop after the forward pass under way; what is complete is kept and stays shown."""
        self._source.cancel()

    def abandon(self) -> None:
        """Stop at once and say nothing more: whoever listened is gone."""
        self.blockSignals(True)
        self.layers.clear()
        self._to_add.clear()
        self._source.abandon()

    # -- events of the worker --------------------------------------------------------------

    def _receive(self, event: Event) -> None:
        if isinstance(event, Preparing):
            self.preparing.emit(event.message)
        elif isinstance(event, Planned):
            self._slide_shape, self._facts = event.slide_shape, event.facts
            self._show(event.snapshot)
            self.planned.emit(event)
        elif isinstance(event, Stepped):
            if event.snapshot is not None:
                self._repaint(event.snapshot)
            self.stepped.emit(event)
        else:
            self._finish(event)

    def _worker_finished(self) -> None:
        """The worker is gone; one that was made to quit had no chance to say so."""
        self._finish(Finished(self._latest, cancelled=True))

    def _finish(self, event: Finished | Failed) -> None:
        if self._end is not None:
            return
        self._end = event
        self._camera_rests.stop()
        camera_of(self._viewer).events.disconnect(self._camera_moved)
        self._viewer.layers.events.removed.disconnect(self._layer_removed)
        if isinstance(event, Failed):
            self.failed.emit(event)
            return
        if event.snapshot is not None:
            self._repaint(event.snapshot)
        show_colour_bars(self.layers)
        self.finished.emit(event)

    # -- layers ----------------------------------------------------------------------------

    def _show(self, snapshot: AnySnapshot) -> None:
        """Find the run's layers in the viewer, or begin to add them."""
        assert self._facts is not None
        self.layers = layers_of_run(self._viewer, self._facts)
        if self.layers:  # what somebody has removed stays away
            self._known = {picture.key for picture in pictures(self._facts, snapshot)}
        self._repaint(snapshot)

    def _repaint(self, snapshot: AnySnapshot) -> None:
        """Write a snapshot into the layers there are; what is new gets a layer."""
        self._latest = snapshot
        if self._facts is None:
            return
        self._shown = pictures(self._facts, snapshot)
        update_with(self.layers, self._shown)
        fresh = [picture for picture in self._shown if picture.key not in self._known]
        if fresh:
            self._known |= {picture.key for picture in fresh}
            waiting = bool(self._to_add) or self._next_layer.isActive()
            self._to_add += fresh
            if not waiting:
                self._selected = self._viewer.layers.selection.active
                self._add_next()

    def _add_next(self) -> None:
        """Add one layer, then let the window breathe: napari builds its controls meanwhile."""
        selection = self._viewer.layers.selection
        if not self._to_add:
            known = self._selected in self._viewer.layers
            selection.active = self._selected if known else None
            if not self.running:
                show_colour_bars(self.layers)
            return
        picture = self._to_add.pop(0)
        # Nobody hears that napari selects each new layer: showing its controls takes as long
        # again as adding it, and the layer selected before stays selected in the end.
        with selection.events.blocker_all():
            data = picture.layer_data(self._placement())
            layer = add_layer_data(self._viewer, data, self._next_above(picture))
        self.layers.append(layer)
        update_with([layer], self._shown)
        self._next_layer.start()

    def _next_above(self, picture: Picture) -> Layer | None:
        """The lowest of the run's layers that belong above a picture; None where it is the top."""
        order = [shown.key for shown in self._shown]
        above = order[order.index(picture.key) + 1 :]
        layers = {key_of(layer): layer for layer in self.layers}
        return next((layers[key] for key in above if key in layers), None)

    def _layer_removed(self, event: Any) -> None:
        """The run ends with its slide, or with the last of its layers."""
        removed = event.value
        had_layers = bool(self.layers)
        # Not by identity: the viewer that napari hands to plugins wraps its layers anew each time.
        self.layers = [layer for layer in self.layers if layer != removed]
        lost_slide = (
            self._facts is not None
            and is_slide_layer(removed)
            and find_slide_layer([removed], self._facts.source) is not None
        )
        if lost_slide or (had_layers and not self.layers):
            self._to_add.clear()
            self.cancel()

    # -- what is in view first -------------------------------------------------------------

    def _camera_moved(self, event: Any = None) -> None:
        self._camera_rests.start()

    def _follow_camera(self) -> None:
        if self._facts is not None and self.running:
            view = visible_region(self._viewer, self._placement(), self._slide_shape)
            self._source.focus(view)

    def _placement(self) -> Placement:
        assert self._facts is not None
        layer = find_slide_layer(self._viewer.layers, self._facts.source)
        return placement_on(layer, self._facts.slide_mpp)

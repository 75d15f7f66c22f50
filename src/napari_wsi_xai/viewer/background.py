"""What would stop the window, kept short or off the main thread: compiling, collections."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

__all__ = ["compile_labels", "quiet_collector"]

_frozen = 0
_lock = threading.Lock()


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Keep full garbage collections short meanwhile.

    With napari in memory a full collection visits 600,000 objects and stops every
    thread for a quarter of a second. Those that exist at the start are set aside for the time of
    the context and put back afterwards, so that nothing is lost: only new ones are visited.
    """
    global _frozen
    with _lock:
        _frozen += 1
        gc.freeze()
    try:
        yield
    finally:
        with _lock:
            _frozen -= 1
            if not _frozen:
                gc.unfreeze()


_compiling: threading.Thread | None = None


def compile_labels() -> threading.Thread:
    """Have napari compile what shows labels, once a session, in the thread that is returned.

    Where numba is installed the first Labels layer takes seconds; this way the main thread does
    not. The thread is no daemon: an interpreter that shuts down meanwhile would crash.
    """
    global _compiling
    with _lock:
        if _compiling is None:
            _compiling = threading.Thread(target=_compile_labels, name="wsi-xai labels")
            _compiling.start()
    return _compiling


def _compile_labels() -> None:
    from napari.layers import Labels

    from napari_wsi_xai.viewer.colours import label_colours

    with quiet_collector():
        Labels(np.zeros((4, 4), dtype=np.uint8), colormap=label_colours(1, 1))

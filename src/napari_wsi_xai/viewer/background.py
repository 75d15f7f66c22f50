"""Slow beginnings, off the main thread: importing torch, compiling, garbage collections."""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

__all__ = ["compile_labels", "import_engines", "preload_torch", "quiet_collector"]

TORCH_LIBRARIES = ("libc10.so", "libtorch_cpu.so", "libtorch.so", "libtorch_python.so")


def preload_torch() -> None:
    """Map torch's libraries into memory without stopping the other threads.

    ``import torch`` links several hundred megabytes inside one C call that holds the interpreter
    lock: the window stands still for a quarter of a second. A foreign function call gives the
    lock away while it runs, so the same linking is done through the C library's own ``dlopen``
    first, and the import then finds everything in place. Only Linux; elsewhere, and whenever
    anything is not as expected, it does nothing and the import takes its usual course.
    """
    if "torch" in sys.modules or not sys.platform.startswith("linux"):
        return
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent / "lib"
    libc = ctypes.CDLL(None)
    libc.dlopen.restype = ctypes.c_void_p
    libc.dlopen.argtypes = [ctypes.c_char_p, ctypes.c_int]
    for name in TORCH_LIBRARIES:
        if (folder / name).is_file():
            libc.dlopen(os.fsencode(folder / name), os.RTLD_NOW | os.RTLD_GLOBAL)


def import_engines() -> None:
    """Import what every run needs. A failure is not told: the run will, in its own words."""
    preload_torch()
    try:
        for name in ("napari_wsi_xai.models.bundle", "napari_wsi_xai.runs"):
            importlib.import_module(name)
    except ImportError:
        logging.getLogger(__name__).debug("importing engines failed", exc_info=True)


_frozen = 0
_lock = threading.Lock()


@contextmanager
def quiet_collector() -> Iterator[None]:
    """Keep full garbage collections short meanwhile.

    With napari and torch in memory a full collection visits 600,000 objects and stops every
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

    from .colours import label_colours

    with quiet_collector():
        Labels(np.zeros((4, 4), dtype=np.uint8), colormap=label_colours(1, 1))

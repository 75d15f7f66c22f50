"""Keep the window answering while a run works: imports and priorities of background threads."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
from pathlib import Path

__all__ = ["lower_priority", "preload_torch"]

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


def lower_priority(niceness: int = 10) -> None:
    """Let the calling thread, and threads it starts, yield the processor to the window.

    Only Linux has priorities per thread (its thread ids count as process ids here).
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
    except OSError:  # a container that forbids it: the run is merely less polite
        return

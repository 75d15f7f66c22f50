"""Import torchvision also where its compiled operators do not load.

The registry's torchvision wheel next to a CPU-only torch fails at import with ``operator
torchvision::nms does not exist``: its compiled library wants CUDA, so the operators that its
Python code decorates at import time are never registered. This package needs only the Python
parts (networks, weights' metadata), so the missing schemas are declared, without code behind
them: calling them would still be an error. Nothing is declared where torchvision imports as it is.
"""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType
from typing import Any

import torch

__all__ = ["import_torchvision"]

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("nms", "qnms")
_lock = threading.Lock()
# A Library object takes its declarations back when it is collected, so it is kept here.
_declared: list[Any] = []


def import_torchvision() -> ModuleType:
    """Return the module ``torchvision``, declaring ``nms`` and ``qnms`` only when its import fails.

    Raises
    ------
    RuntimeError, ImportError
        Whatever torchvision raises for another reason than its missing operators.
    """
    with _lock:
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            _forget_half_import()
            _declare_operators()
            return importlib.import_module("torchvision")


def _forget_half_import() -> None:
    # The failed import leaves submodules behind that would be taken for complete ones.
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]


def _declare_operators() -> None:
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in _OPERATORS:
        if not hasattr(torch.ops.torchvision, operator):
            library.define(operator + _SCHEMA)
    _declared.append(library)

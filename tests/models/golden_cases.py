"""Reference numbers of the published methods, as tests take them.

``from golden_cases import cases`` works in every test: pytest has this folder on its path.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_wsi_xai.models import MILModel, build_mil
from napari_wsi_xai.models.checkpoints.layout import Layout

__all__ = ["TOLERANCE", "Case", "assert_near", "cases", "fitting", "load_case", "rebuild"]

TOLERANCE = {"rtol": 1e-4, "atol": 2e-6}


@dataclass(frozen=True)
class Case:
    """One file: inputs, results, the authors' tensors by the authors' names, how it was made."""

    name: str
    arrays: dict[str, np.ndarray]
    state_dict: dict[str, torch.Tensor]
    meta: dict[str, Any]

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def __repr__(self) -> str:
        return f"Case({self.name})"

    def tensor(self, key: str) -> torch.Tensor:
        """An array as a tensor of its own."""
        return torch.from_numpy(self.arrays[key].copy())


def load_case(path: Path) -> Case:
    """Read one file; ``arrays`` holds all but the tensors of the model and ``meta``."""
    with np.load(path) as stored:
        everything = {key: stored[key] for key in stored.files}
    meta = everything.pop("meta", None)
    state = {
        key.removeprefix("state_dict/"): torch.from_numpy(everything.pop(key))
        for key in list(everything)
        if key.startswith("state_dict/")
    }
    return Case(path.stem, everything, state, json.loads(bytes(meta)) if meta is not None else {})


def cases(golden: Path, method: str, pattern: str = "*.npz") -> list[Case]:
    """Every case of a method that is there, sorted by file name; at least one."""
    paths = sorted((golden / method).glob(pattern))
    assert paths, f"no {pattern} in {golden / method}"
    return [load_case(path) for path in paths]


def assert_near(
    actual: torch.Tensor | np.ndarray, wanted: torch.Tensor | np.ndarray, what: str = ""
) -> None:
    """Equal in shape, and in value to the tolerance of float32 reference numbers."""
    a, b = (
        x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x for x in (actual, wanted)
    )
    assert a.shape == b.shape, f"{what}: shape {a.shape} instead of {b.shape}"
    np.testing.assert_allclose(a, b, **TOLERANCE, err_msg=what)


def fitting(layouts: Iterable[Layout], tensors: Mapping[str, torch.Tensor]) -> list[Layout]:
    """Layouts that know every one of these tensors and miss none."""
    return [
        layout
        for layout in layouts
        if all(layout.template_of(name) or layout.ignores(name) for name in tensors)
        and set(layout.names) - layout.optional <= {layout.template_of(name) for name in tensors}
    ]


def rebuild(layouts: Iterable[Layout], tensors: Mapping[str, torch.Tensor], **options) -> MILModel:
    """The authors' tensors as a head of ours, through the one layout that fits."""
    (layout,) = fitting(layouts, tensors)
    head = build_mil(layout.architecture, **(layout.arguments(tensors) | options))
    head.load_state_dict(layout.rename(tensors))
    return head

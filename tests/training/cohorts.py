"""Made-up cohorts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from napari_wsi_xai.runs import FeatureBag, write_feature_bag
from napari_wsi_xai.training import Case, Cohort


def make_cohort(patients: Sequence[Sequence[int]], classes: int = 2, split=None) -> Cohort:
    """One entry a patient: the labels of its slides."""
    cases, names = [], tuple(f"class {number}" for number in range(classes))
    for number, labels in enumerate(patients):
        for label in labels:
            slide = f"s{len(cases)}"
            side = split[number] if split else None
            cases.append(Case(slide, label, f"p{number}", Path(f"{slide}.pt"), side))
    return Cohort(tuple(cases), names)


def write_bag(path: Path, tiles: int = 5, length: int = 4, seed: int = 0, dtype=np.float32) -> Path:
    """A small feature file."""
    rng = np.random.default_rng(seed)
    coords = np.stack([np.arange(tiles) * 100, np.arange(tiles) * 200 + 7], axis=1)
    values = rng.normal(size=(tiles, length)).astype(dtype)
    return write_feature_bag(FeatureBag(values, coords.astype(np.int64), 100.0), path)


def write_csv(path: Path, *rows: str, header: str = "slide,label,patient") -> Path:
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path

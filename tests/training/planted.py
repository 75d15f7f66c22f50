"""Bags of random descriptors, some with a planted direction that tells the label."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from napari_wsi_xai.runs import write_feature_bag
from napari_wsi_xai.runs.features_io import FeatureBag
from napari_wsi_xai.training.cohort import Cohort, read_cohort

D = 12


def tiles(
    rng: np.random.Generator, count: int, label: int, share: float, reach: float = 3.0
) -> np.ndarray:
    """(count, D) float32; in bags of class c > 0 a share of tiles lies far out along axis c."""
    found = rng.standard_normal((count, D)).astype(np.float32)
    if label:
        found[rng.permutation(count)[: max(1, round(share * count))], label] += reach
    return found


def planted_cohort(
    folder: Path,
    slides: tuple[int, ...] = (20, 20),
    *,
    count: int = 24,
    share: float = 0.3,
    seed: int = 0,
    reach: float = 3.0,
) -> Cohort:
    """Write ``slides[c]`` bags of each class c as .h5, and read the cohort."""
    rng = np.random.default_rng(seed)
    features = folder / "features"
    features.mkdir(parents=True)
    places = np.stack(np.divmod(np.arange(count), 6), axis=1) * 100
    names = ("normal", "tumor", "other")
    with (folder / "cohort.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["slide", "label", "patient"])
        for label, many in enumerate(slides):
            for number in range(many):
                name = f"{names[label]}{number:02d}"
                bag = FeatureBag(tiles(rng, count, label, share, reach), places, 100.0)
                write_feature_bag(bag, features / f"{name}.h5")
                lines.writerow([name, names[label], f"patient-{name}"])
    classes = names[: len(slides)]
    return read_cohort(folder / "cohort.csv", features, classes=classes)

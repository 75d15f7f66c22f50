"""Small slides whose classes differ by a few tiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from napari_wsi_xai.training import Case, Cohort

SIDE, TILE, MPP = 384, 48, 0.5


def picture(label: int, seed: int) -> np.ndarray:
    """(384, 384, 3): tissue on white glass; with label 1 some of it is darker and bluer."""
    rng = np.random.default_rng(seed)
    rgb = np.full((SIDE, SIDE, 3), 244.0)
    rgb[:, :240] = np.array([200, 120, 170]) + rng.normal(0, 12, (SIDE, 240, 3))
    for _ in range(6 * label):
        y, x = rng.integers(0, 5, 2) * TILE
        rgb[y : y + TILE, x : x + TILE] -= [90, 40, 10]
    return np.clip(rgb, 0, 255).astype(np.uint8)


def tile_cohort(folder: Path, write_slide: Callable[..., Path], slides: int = 8) -> Cohort:
    """As many slides of two classes in turn, of as many patients."""
    (folder / "slides").mkdir(parents=True)
    rows, cases = ["slide,label,patient"], []
    for number in range(slides):
        label = number % 2
        place = folder / "slides" / f"s{number}.ome.tif"
        write_slide(place, picture(label, number), mpp=MPP)
        rows.append(f"s{number},{('normal', 'tumor')[label]},p{number}")
        cases.append(Case(f"s{number}", label, f"p{number}", place))
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    return Cohort(tuple(cases), ("normal", "tumor"))

"""Training on slide labels: cohorts, splits, bags, losses, cross-validation.

Names are imported on first use, because PyTorch and Lightning take seconds to load.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_wsi_xai.training.bags import Bag, BagDataset, read_bag
    from napari_wsi_xai.training.cohort import (
        Case,
        Cohort,
        check_cohort,
        read_cohort,
        write_cohort,
    )
    from napari_wsi_xai.training.encoding import EncodingProgress, encode_cohort
    from napari_wsi_xai.training.facts import FeatureFacts, feature_facts
    from napari_wsi_xai.training.metrics import Estimate, Metrics, classification_metrics
    from napari_wsi_xai.training.nuclei import encode_nuclei, nucleus_tiles
    from napari_wsi_xai.training.public_sets import PUBLIC_SETS, read_public_set
    from napari_wsi_xai.training.splits import (
        Split,
        check_patients,
        given,
        hold_out,
        k_fold,
        repeated,
    )

__all__ = [
    "PUBLIC_SETS",
    "Bag",
    "BagDataset",
    "Case",
    "Cohort",
    "EncodingProgress",
    "Estimate",
    "FeatureFacts",
    "Metrics",
    "Split",
    "check_cohort",
    "check_patients",
    "classification_metrics",
    "encode_cohort",
    "encode_nuclei",
    "feature_facts",
    "given",
    "hold_out",
    "k_fold",
    "nucleus_tiles",
    "read_bag",
    "read_cohort",
    "read_public_set",
    "repeated",
    "write_cohort",
]

_HOMES = {
    "bags": ("Bag", "BagDataset", "read_bag"),
    "cohort": ("Case", "Cohort", "check_cohort", "read_cohort", "write_cohort"),
    "encoding": ("EncodingProgress", "encode_cohort"),
    "facts": ("FeatureFacts", "feature_facts"),
    "metrics": ("Estimate", "Metrics", "classification_metrics"),
    "nuclei": ("encode_nuclei", "nucleus_tiles"),
    "public_sets": ("PUBLIC_SETS", "read_public_set"),
    "splits": ("Split", "check_patients", "given", "hold_out", "k_fold", "repeated"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

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
    from napari_wsi_xai.training.crossval import CrossValidation, cross_validate
    from napari_wsi_xai.training.encoding import EncodingProgress, encode_cohort
    from napari_wsi_xai.training.ensemble import EnsembleResult, train_ensemble
    from napari_wsi_xai.training.epoch_store import EpochStore
    from napari_wsi_xai.training.facts import FeatureFacts, feature_facts
    from napari_wsi_xai.training.fit import TrainResult, train
    from napari_wsi_xai.training.losses import training_loss
    from napari_wsi_xai.training.metrics import Estimate, Metrics, classification_metrics
    from napari_wsi_xai.training.module import MILModule
    from napari_wsi_xai.training.nuclei import encode_nuclei, nucleus_tiles
    from napari_wsi_xai.training.papers import PAPERS, Paper, paper_of
    from napari_wsi_xai.training.public_sets import PUBLIC_SETS, read_public_set
    from napari_wsi_xai.training.recipes import Recipe, read_recipe, recipe_for, write_recipe
    from napari_wsi_xai.training.records import TrainProgress
    from napari_wsi_xai.training.reproducing import reproduce
    from napari_wsi_xai.training.reproduction import Reproduction, plan_reproduction
    from napari_wsi_xai.training.rules import Rule, parse_rules, read_rules
    from napari_wsi_xai.training.splits import (
        Split,
        check_patients,
        given,
        hold_out,
        k_fold,
        repeated,
    )
    from napari_wsi_xai.training.watch import WatchSlides
    from napari_wsi_xai.training.watched import WatchedSlide, watch_bag, watch_case

__all__ = [
    "Bag",
    "BagDataset",
    "Case",
    "Cohort",
    "CrossValidation",
    "EncodingProgress",
    "EnsembleResult",
    "EpochStore",
    "Estimate",
    "FeatureFacts",
    "MILModule",
    "Metrics",
    "PAPERS",
    "PUBLIC_SETS",
    "Paper",
    "Recipe",
    "Reproduction",
    "Rule",
    "Split",
    "TrainProgress",
    "TrainResult",
    "WatchSlides",
    "WatchedSlide",
    "check_cohort",
    "check_patients",
    "classification_metrics",
    "cross_validate",
    "encode_cohort",
    "encode_nuclei",
    "feature_facts",
    "given",
    "hold_out",
    "k_fold",
    "nucleus_tiles",
    "paper_of",
    "parse_rules",
    "plan_reproduction",
    "read_bag",
    "read_cohort",
    "read_public_set",
    "read_recipe",
    "read_rules",
    "recipe_for",
    "repeated",
    "reproduce",
    "train",
    "train_ensemble",
    "training_loss",
    "watch_bag",
    "watch_case",
    "write_cohort",
    "write_recipe",
]

_HOMES = {
    "bags": ("Bag", "BagDataset", "read_bag"),
    "cohort": ("Case", "Cohort", "check_cohort", "read_cohort", "write_cohort"),
    "crossval": ("CrossValidation", "cross_validate"),
    "encoding": ("EncodingProgress", "encode_cohort"),
    "ensemble": ("EnsembleResult", "train_ensemble"),
    "epoch_store": ("EpochStore",),
    "facts": ("FeatureFacts", "feature_facts"),
    "fit": ("TrainResult", "train"),
    "losses": ("training_loss",),
    "metrics": ("Estimate", "Metrics", "classification_metrics"),
    "module": ("MILModule",),
    "nuclei": ("encode_nuclei", "nucleus_tiles"),
    "papers": ("PAPERS", "Paper", "paper_of"),
    "public_sets": ("PUBLIC_SETS", "read_public_set"),
    "recipes": ("Recipe", "read_recipe", "recipe_for", "write_recipe"),
    "records": ("TrainProgress",),
    "reproducing": ("reproduce",),
    "reproduction": ("Reproduction", "plan_reproduction"),
    "rules": ("Rule", "parse_rules", "read_rules"),
    "splits": ("Split", "check_patients", "given", "hold_out", "k_fold", "repeated"),
    "watch": ("WatchSlides",),
    "watched": ("WatchedSlide", "watch_bag", "watch_case"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

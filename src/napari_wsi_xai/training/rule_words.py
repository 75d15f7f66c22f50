"""What figures are called in rules."""

from __future__ import annotations

import math
import re

__all__ = ["FIGURE_WORDS", "bounds_of", "figure_of", "metric_key", "possible_words"]

_SIDES = {"val": "validation", "train": "training"}

_METRICS = ("auc", "accuracy", "f1", "loss")

FIGURE_WORDS = {
    "entropy": "attention entropy",
    "correlation": "map correlation",
    "localisation": "localisation",
    "excluded": "attention on excluded",
    "outside_tissue": "attention outside tissue",
    "probability": "probability",
    **{f"{side}_{key}": f"{_SIDES[side]} {key}" for side in _SIDES for key in _METRICS},
}
"""A figure to what it is called in messages."""

_OTHER_WORDS = {
    "entropy": "entropy",
    "correlation": "correlation",
    "localization": "localisation",
    "localisation auc": "localisation",
    "localization auc": "localisation",
    "excluded": "excluded",
    "share on excluded": "excluded",
    "attention on excluded regions": "excluded",
    "share of attention on excluded": "excluded",
    "share of attention on excluded regions": "excluded",
    "outside tissue": "outside_tissue",
    "share outside tissue": "outside_tissue",
    "share of attention outside tissue": "outside_tissue",
    "validation": "val_auc",
}

_KNOWN = {words: figure for figure, words in FIGURE_WORDS.items()} | _OTHER_WORDS


def figure_of(words: str) -> str | None:
    """The figure that is called so, or None."""
    plain = re.sub(r"^(?:the|mean)\s+", "", words.strip())
    return _KNOWN.get(plain) or (key if (key := metric_key(plain)) in FIGURE_WORDS else None)


def bounds_of(figure: str) -> tuple[float, float]:
    """Smallest and largest value that a figure can have."""
    if figure.endswith("_loss"):
        return -math.inf, math.inf
    return (-1.0 if figure == "correlation" else 0.0), 1.0


def metric_key(name: str) -> str:
    """``"val_auc"`` from what training logs it as: "val/auc", "Validation AUC", "val_auc_epoch"."""
    parts = re.split(r"[\s_/.-]+", name.strip().lower())
    short = {"validation": "val", "valid": "val", "training": "train", "acc": "accuracy"}
    # Of several F1 scores the one weighted by class is logged.
    parts = [short.get(part, part) for part in parts if part != "weighted"]
    return "_".join(parts[:-1] if len(parts) > 2 and parts[-1] == "epoch" else parts)


def possible_words() -> str:
    """All figures that a rule may speak of, for a message."""
    return ", ".join(FIGURE_WORDS.values())

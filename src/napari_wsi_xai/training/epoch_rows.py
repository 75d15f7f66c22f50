"""What the history of a training says of an epoch."""

from __future__ import annotations

import math

from napari_wsi_xai.training.metrics import classification_metrics

__all__ = ["mean_parts", "validation_figures"]


def mean_parts(parts: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each part of the loss over the bags of an epoch, as ``train_<part>``."""
    names = parts[0] if parts else {"loss": math.nan}
    return {
        f"train_{name}": math.fsum(part[name] for part in parts) / len(parts) if parts else math.nan
        for name in names
    }


def validation_figures(judged: list[tuple[int, float, list[float]]]) -> dict[str, float]:
    """Figures of judged bags (label, loss, probabilities); NaN where one is not defined."""
    if not judged:
        return {}
    labels = [label for label, _, _ in judged]
    chances = [row for _, _, row in judged]
    loss = math.fsum(loss for _, loss, _ in judged) / len(judged)
    values = {"auc": math.nan, "accuracy": math.nan, "weighted_f1": math.nan}
    if all(math.isfinite(p) for row in chances for p in row):
        figures = classification_metrics(labels, chances, n_boot=0)
        for name in values:
            value = getattr(figures, name).value
            values[name] = math.nan if value is None else value
    return {"val_loss": loss, **{f"val_{name}": value for name, value in values.items()}}

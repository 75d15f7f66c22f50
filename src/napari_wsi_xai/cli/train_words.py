"""What ``train`` says of its progress and its results."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari_wsi_xai.cli.console import emit_json, say
from napari_wsi_xai.cli.progress import duration

if TYPE_CHECKING:
    from napari_wsi_xai.training.crossval import CrossValidation
    from napari_wsi_xai.training.ensemble import EnsembleResult
    from napari_wsi_xai.training.fit import TrainResult
    from napari_wsi_xai.training.metrics import Metrics
    from napari_wsi_xai.training.records import TrainProgress

__all__ = ["print_crossed", "print_ensemble", "print_result", "tell", "words_of"]


def words_of(progress: TrainProgress) -> str:
    """Epoch, the figures of the one before, and the time left at most; or what comes before."""
    if progress.before:
        return progress.before
    parts = [f"epoch {progress.epoch} of {progress.epochs}"]
    for name in ("train_loss", "val_loss", "val_auc"):
        if name in progress.figures:
            parts.append(f"{name.replace('_', ' ')} {progress.figures[name]:.3f}")
    if progress.eta_s:
        parts.append(f"at most {duration(progress.eta_s)} left")
    return ", ".join(parts)


def tell(facts: dict[str, Any], as_json: bool, plain: Callable[[], None]) -> None:
    """Print facts as JSON, or in words with ``plain``."""
    if as_json:
        emit_json(facts)
    else:
        plain()


def print_result(result: TrainResult) -> None:
    """Print what a training gave."""
    _print_balance(result.balance)
    print(f"best epoch {result.best_epoch} of {len(result.history)}")
    if result.stopped_because:
        print(f"stopped: {result.stopped_because}")
    _print_outcome(result)


def print_ensemble(result: EnsembleResult) -> None:
    """Print what the members of an ensemble gave, and what they give together."""
    _print_balance(result.balance)
    for number, member in enumerate(result.members, 1):
        stopped = f"; stopped: {member.stopped_because}" if member.stopped_because else ""
        print(f"member {number}: best epoch {member.best_epoch} of {len(member.history)}{stopped}")
    _print_outcome(result)


def _print_balance(balance: dict[str, Any]) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in balance["slides"].items())
    print(f"trained on {counts} slides; class balance: {balance['class_balance']}")


def _print_outcome(result: TrainResult | EnsembleResult) -> None:
    for side, metrics in result.metrics.items():
        _print_metrics({"val": "validation"}.get(side, side), metrics)
    if result.model.name == "head.safetensors":
        say("the encoder is not known, so this is the head alone: give --encoder for a model.")
    print(f"-> {result.model}")


def print_crossed(crossed: CrossValidation) -> None:
    """Print what the folds of a cross-validation gave."""
    for number, fold in enumerate(crossed.folds, 1):
        _print_metrics(f"fold {number}", fold.metrics["test"])
    _print_metrics("all folds", crossed.pooled)
    for name, (mean, deviation) in crossed.spread().items():
        if mean is not None:
            spread = "" if deviation is None else f", standard deviation {deviation:.3f}"
            print(f"{name.replace('_', ' ')}: mean {mean:.3f}{spread} over the folds")
    print(f"-> {crossed.folder}")


def _print_metrics(name: str, metrics: Metrics) -> None:
    print(
        f"{name} ({metrics.slides} slides): AUC {metrics.auc}, accuracy {metrics.accuracy}, "
        f"weighted F1 {metrics.weighted_f1}"
    )

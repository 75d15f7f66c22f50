"""Cross-validation: a training a fold, figures of each and of all test slides together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.training.cohort import Cohort
from napari_wsi_xai.training.ensemble import EnsembleResult, train_ensemble
from napari_wsi_xai.training.fit import TrainResult, train
from napari_wsi_xai.training.metrics import classification_metrics
from napari_wsi_xai.training.recipes import Recipe
from napari_wsi_xai.training.splits import Split

if TYPE_CHECKING:
    from napari_wsi_xai.training.metrics import Metrics
    from napari_wsi_xai.training.records import TrainProgress

__all__ = ["CrossValidation", "cross_validate"]

FIGURES = ("auc", "accuracy", "weighted_f1")


@dataclass(frozen=True)
class CrossValidation:
    """What the folds gave.

    Attributes
    ----------
    folds
        One training each, or one ensemble.
    pooled
        Of the test slides of all folds together. A slide that several folds test (repeated
        cross-validation) counts each time; intervals are over patients, so it counts as one.
    predictions
        CSV of all test slides, with the fold in the column ``side``.
    folder
        Where all of it is, ``fold-1`` and so on.
    """

    folds: tuple[TrainResult | EnsembleResult, ...]
    pooled: Metrics
    predictions: Path
    folder: Path

    def spread(self) -> dict[str, tuple[float | None, float | None]]:
        """Mean and standard deviation of each figure over the folds that have it."""
        found: dict[str, tuple[float | None, float | None]] = {}
        for name in FIGURES:
            values = [getattr(fold.metrics["test"], name).value for fold in self.folds]
            known = [value for value in values if value is not None]
            deviation = stdev(known) if len(known) > 1 else None
            found[name] = (fmean(known) if known else None, deviation)
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "folder": str(self.folder),
            "predictions": str(self.predictions),
            "pooled": self.pooled.to_dict(),
            "mean_and_deviation": {name: list(pair) for name, pair in self.spread().items()},
            "folds": [fold.to_dict() for fold in self.folds],
        }


def cross_validate(
    cohort: Cohort,
    splits: Sequence[Split],
    recipe: Recipe,
    out: str | os.PathLike[str],
    encoder: Encoder | None = None,
    *,
    members: int | None = None,
    callbacks: Callable[[int, Path], Iterable[Any]] | None = None,
    on_progress: Callable[[int, TrainProgress], None] | None = None,
    **options: Any,
) -> CrossValidation:
    """Train and test once a split; called again after a kill it goes on in the fold under way.

    Parameters
    ----------
    cohort, splits
        Slides, and what each fold trains and tests with.
    recipe, encoder
        As :func:`~napari_wsi_xai.training.fit.train` takes them.
    out
        Folder of the results, one folder a fold in it.
    members
        Train an ensemble of so many in each fold, see ``train_ensemble``.
    callbacks
        Makes the Lightning callbacks of a training (its fold, from 0, and its folder).
    on_progress
        Is told the training's number, from 0, and how far it has come: the fold's, or with
        ``members`` fold x members + member.
    **options
        What else ``train`` takes.

    Raises
    ------
    BadArgumentError
        No split, or one that tests nothing.
    WsiXaiError
        See ``train``.
    """
    from napari_wsi_xai.training.records import write_atomically
    from napari_wsi_xai.training.results import write_predictions

    empty = [split.name for split in splits if not split.test]
    if not splits or empty:
        wrong = f"the split {empty[0]!r} has no test slides" if empty else "there is no split"
        raise BadArgumentError(f"{wrong}: cross-validation needs some in each, see k_fold.")
    folder = Path(out)
    folds: list[TrainResult | EnsembleResult] = []
    for number, split in enumerate(splits):
        place, made = folder / f"fold-{number + 1}", _of_fold(number, callbacks)
        tell = _counted(number * (members or 1), on_progress)
        if members is None:
            alone = None if tell is None else partial(tell, 0)
            options |= {"callbacks": made(0, place), "on_progress": alone}
            folds.append(train(cohort, split, recipe, place, encoder, **options))
        else:
            options |= {"callbacks": made, "on_progress": tell}
            folds.append(train_ensemble(cohort, split, recipe, place, members, encoder, **options))
    rows = [(i, f"fold {n + 1}") for n, split in enumerate(splits) for i in split.test]
    chances = [fold.probabilities[i] for fold, s in zip(folds, splits, strict=True) for i in s.test]
    pooled = classification_metrics(
        [cohort.cases[index].label for index, _ in rows],
        chances,
        recipe.seed,
        patients=[cohort.cases[index].patient for index, _ in rows],
        classes=cohort.classes,
    )
    predictions = write_predictions(cohort, rows, chances, folder / "predictions.csv")
    result = CrossValidation(tuple(folds), pooled, predictions, folder)
    with write_atomically(folder / "result.json") as temporary:
        temporary.write_text(json.dumps(result.to_dict(), indent=1), encoding="utf-8")
    return result


def _of_fold(
    fold: int, make: Callable[[int, Path], Iterable[Any]] | None
) -> Callable[[int, Path], Iterable[Any]]:
    """Callbacks of the trainings of a fold, whatever member they are of."""
    return lambda member, folder: () if make is None else make(fold, folder)


def _counted(
    first: int, tell: Callable[[int, TrainProgress], None] | None
) -> Callable[[int, TrainProgress], None] | None:
    """Tells with the numbers of trainings, where they begin with ``first``."""
    return None if tell is None else lambda number, progress: tell(first + number, progress)

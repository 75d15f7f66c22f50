"""Several trainings that differ by their seed alone, and the head that is their mean."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.mil.arguments import check_whole
from napari_wsi_xai.models.mil.ensemble import EnsembleMIL, ensemble_of
from napari_wsi_xai.training.cohort import SIDES, Cohort
from napari_wsi_xai.training.facts import FeatureFacts, feature_facts
from napari_wsi_xai.training.fit import IDENTITY, RESULT, TrainResult, train, with_geometry
from napari_wsi_xai.training.heads import build_head
from napari_wsi_xai.training.recipes import Recipe
from napari_wsi_xai.training.splits import Split, check_patients
from napari_wsi_xai.training.strides import with_stride

if TYPE_CHECKING:
    from napari_wsi_xai.training.metrics import Metrics
    from napari_wsi_xai.training.records import TrainProgress

__all__ = ["EnsembleResult", "train_ensemble"]


@dataclass(frozen=True)
class EnsembleResult:
    """What the members gave, and what they give together.

    Attributes
    ----------
    head
        All members with the weights of their best epochs, in eval mode.
    members
        One training each.
    metrics
        Of the mean of the members, of validation and test slides, ``"val"`` and ``"test"``, where
        there are any.
    probabilities
        Means of the members', of every slide of the split, by its index in the cohort.
    model
        The bundle, or the head alone where the encoder is not known.
    predictions
        CSV of every slide's side, label and probabilities.
    balance
        Training slides of each class, and what was done about their numbers.
    folder
        Where all of it is, members in ``member-1`` and so on.
    """

    head: EnsembleMIL
    members: tuple[TrainResult, ...]
    metrics: dict[str, Metrics]
    probabilities: dict[int, list[float]]
    model: Path
    predictions: Path
    balance: dict[str, Any]
    folder: Path

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without weights and probabilities."""
        return {
            "folder": str(self.folder),
            "model": str(self.model),
            "predictions": str(self.predictions),
            "balance": self.balance,
            "metrics": {side: one.to_dict() for side, one in self.metrics.items()},
            "members": [member.to_dict() for member in self.members],
        }


def train_ensemble(
    cohort: Cohort,
    split: Split,
    recipe: Recipe,
    out: str | os.PathLike[str],
    members: int = 10,
    encoder: Encoder | None = None,
    *,
    callbacks: Callable[[int, Path], Iterable[Any]] | None = None,
    on_progress: Callable[[int, TrainProgress], None] | None = None,
    **options: Any,
) -> EnsembleResult:
    """Train a head several times and take the mean; called again after a kill it goes on.

    So the authors of CHOWDER do: they average the predictions of networks that began with
    different weights (Courtiol et al. 2018, arXiv 1802.02212).

    Parameters
    ----------
    cohort, split
        Slides, and which to train, to choose best epochs and to test with.
    recipe
        How to train the first member, by itself what ``train`` makes of it. Member k has the seed
        ``recipe.seed + k - 1``.
    out
        Folder of the results, one folder a member in it. Called with a larger ``members`` later,
        what is there already is not trained again.
    members
        How many.
    encoder
        As :func:`~napari_wsi_xai.training.fit.train` takes it.
    callbacks
        Makes the Lightning callbacks of a member (number from 0, folder).
    on_progress
        Is told the member's number, from 0, and how far it has come.
    **options
        What else ``train`` takes.

    Raises
    ------
    BadArgumentError
        Fewer than one member, a head over several magnifications, encoders trained along, or a
        folder that holds another training.
    WsiXaiError
        See ``train``.
    """
    check_whole(1, members=members)
    check_patients(cohort, split)
    folder = Path(out)
    _check(recipe, folder)
    facts = with_geometry(feature_facts(cohort), options.get("tile_px"), options.get("mpps"))
    # What makes no ensemble is told before anything is trained.
    ensemble_of([build_head(recipe, facts.length, len(cohort.classes), len(facts.mpps or (0,)))])
    recipe = with_stride(recipe, cohort, split.train)
    results = []
    for number in range(members):
        place = folder / f"member-{number + 1}"
        own = replace(recipe, seed=recipe.seed + number)
        made = () if callbacks is None else tuple(callbacks(number, place))
        tell = None if on_progress is None else partial(on_progress, number)
        results.append(train(cohort, split, own, place, encoder, made, on_progress=tell, **options))
    return _finish(cohort, split, recipe, facts, encoder, results, folder)


def _check(recipe: Recipe, folder: Path) -> None:
    if recipe.end_to_end:
        raise BadArgumentError(
            "members of an ensemble share one encoder, and end_to_end=True trains one for each: "
            "train heads on stored features, or members one by one."
        )
    if (folder / IDENTITY).is_file():
        raise BadArgumentError(f"{folder} holds a training of one head: name another folder.")


def _finish(
    cohort: Cohort,
    split: Split,
    recipe: Recipe,
    facts: FeatureFacts,
    encoder: Encoder | None,
    members: Sequence[TrainResult],
    folder: Path,
) -> EnsembleResult:
    """Judge the mean of the members and write what is left."""
    from napari_wsi_xai.training import results
    from napari_wsi_xai.training.records import write_atomically

    head = ensemble_of([member.head for member in members])
    rows = [(index, side) for side in SIDES for index in getattr(split, side)]
    chances = results.predict(head, cohort, [index for index, _ in rows])
    metrics = results.side_metrics(cohort, split, chances, recipe.seed)
    metadata = _metadata(cohort, split, recipe, facts, members, head)
    metadata["training"]["metrics"] = {side: one.to_dict() for side, one in metrics.items()}
    encoder = encoder or results.find_encoder(facts)
    place = folder / "predictions.csv"
    listed_chances = [chances[index] for index, _ in rows]
    result = EnsembleResult(
        head=head,
        members=tuple(members),
        metrics=metrics,
        probabilities=chances,
        model=results.write_head(head, cohort, facts, encoder, folder, metadata),
        predictions=results.write_predictions(cohort, rows, listed_chances, place),
        balance=members[0].balance,
        folder=folder,
    )
    with write_atomically(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(result.to_dict(), indent=1), encoding="utf-8")
    return result


def _metadata(
    cohort: Cohort,
    split: Split,
    recipe: Recipe,
    facts: FeatureFacts,
    members: Sequence[TrainResult],
    head: EnsembleMIL,
) -> dict[str, Any]:
    """What the model says of its training."""
    from napari_wsi_xai.models.tensor_files import hash_tensors

    sides = {side: [cohort.cases[i].slide for i in getattr(split, side)] for side in SIDES}
    return {
        "trained": True,
        "training": {
            "recipe": recipe.to_dict(),
            "cohort": cohort.content_hash,
            "split": {"name": split.name, **sides},
            "balance": members[0].balance,
            "members": [
                {
                    "seed": recipe.seed + number,
                    "epochs": len(member.history),
                    "best_epoch": member.best_epoch,
                    "stopped_because": member.stopped_because,
                }
                for number, member in enumerate(members)
            ],
            "features": {"encoder": facts.encoder, "encoder_hash": facts.encoder_hash},
            "head_hash": f"sha256:{hash_tensors(head.state_dict())}",
        },
    }

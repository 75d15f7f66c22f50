"""Train one head on one split of a cohort."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_wsi_xai.errors import BadArgumentError
from napari_wsi_xai.models.encoders.encoder import Encoder
from napari_wsi_xai.models.mil import MILModel
from napari_wsi_xai.training.cohort import SIDES, Cohort
from napari_wsi_xai.training.end_to_end import begin_end_to_end, facts_of_start
from napari_wsi_xai.training.facts import FeatureFacts, feature_facts
from napari_wsi_xai.training.heads import build_head
from napari_wsi_xai.training.identity import identity_of, require_same
from napari_wsi_xai.training.loaders import class_weights
from napari_wsi_xai.training.recipes import Recipe, write_recipe
from napari_wsi_xai.training.splits import Split, check_patients
from napari_wsi_xai.training.strides import with_stride

if TYPE_CHECKING:
    from napari_wsi_xai.training.fitting import Fit
    from napari_wsi_xai.training.metrics import Metrics
    from napari_wsi_xai.training.module import MILModule
    from napari_wsi_xai.training.records import TrainProgress

__all__ = ["TrainResult", "train"]

IDENTITY, RESULT = "training.json", "result.json"


@dataclass(frozen=True)
class TrainResult:
    """What a training gave.

    Attributes
    ----------
    head
        With the weights of the best epoch, in eval mode.
    best_epoch
        Its number, from 1.
    history
        One row an epoch, see ``MILModule.history``.
    metrics
        Of the validation and test slides, ``"val"`` and ``"test"``, where there are any.
    probabilities
        Of every slide of the split, by its index in the cohort.
    model
        The bundle, or the head alone where the encoder is not known.
    predictions
        CSV of every slide's side, label and probabilities.
    stopped_because
        Why it ended before the last epoch, or None.
    balance
        Training slides of each class, and what was done about their numbers.
    folder
        Where all of it is, ``last.ckpt``, ``log.csv`` and ``tensorboard`` too.
    encoder
        Of the best epoch, where it was trained too.
    """

    head: MILModel
    best_epoch: int
    history: list[dict[str, float]]
    metrics: dict[str, Metrics]
    probabilities: dict[int, list[float]]
    model: Path
    predictions: Path
    stopped_because: str | None
    balance: dict[str, Any]
    folder: Path
    encoder: Encoder | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, without weights and probabilities."""
        return {
            "folder": str(self.folder),
            "model": str(self.model),
            "predictions": str(self.predictions),
            "best_epoch": self.best_epoch,
            "epochs": len(self.history),
            "stopped_because": self.stopped_because,
            "balance": self.balance,
            "history": self.history,
            "metrics": {side: one.to_dict() for side, one in self.metrics.items()},
        }


def train(
    cohort: Cohort,
    split: Split,
    recipe: Recipe,
    out: str | os.PathLike[str],
    encoder: Encoder | None = None,
    callbacks: Iterable[Any] = (),
    *,
    tile_px: int | None = None,
    mpps: Sequence[float] | None = None,
    on_progress: Callable[[TrainProgress], None] | None = None,
    workers: int = 0,
    device: str = "auto",
) -> TrainResult:
    """Train a head on slide labels; called again after a kill it goes on.

    Parameters
    ----------
    cohort, split
        Slides, and which to train with, to choose the best epoch with and to test with.
    recipe
        How to train.
    out
        Folder of the results. One that holds an unfinished training of the same cohort, split and
        recipe is gone on with: it ends with the very weights that it would have had, had it
        never been interrupted. A finished one is not trained again.
    encoder
        What the descriptors were made with; it goes into the bundle. By default what run stores
        say, if it can be built from that. End to end, what to begin with; it stays as it is.
    callbacks
        Lightning callbacks.
    tile_px, mpps
        Edge of a tile in pixels, and micrometres per pixel of every magnification, coarse to
        fine, where the features do not say. End to end 224 at 0.5 by default.
    on_progress
        Is told after every bag how far it has come; end to end, before the first epoch, after
        every slide whose tissue is found.
    workers
        Processes that read bags.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    BadArgumentError
        The folder holds another training, or a setting does not fit.
    CohortError
        A patient is on two sides, a class has no training slide, or features do not fit.
    MissingExtraError
        Lightning is not installed.
    """
    from napari_wsi_xai.training.fitting import Fit
    from napari_wsi_xai.training.results import find_encoder

    check_patients(cohort, split)
    if recipe.end_to_end:
        facts = facts_of_start(cohort, encoder, tile_px, mpps)
    else:
        facts = with_geometry(feature_facts(cohort), tile_px, mpps)
        check_encoder(encoder, facts)
    sizes = (facts.length, len(cohort.classes), len(facts.mpps or (0,)))
    head = build_head(recipe, *sizes)
    weights = class_weights(cohort, split.train)
    folder = Path(out)
    tiles = None
    if recipe.end_to_end and encoder is not None:
        tell = _tells_of_tissue(recipe, split, on_progress)
        tiles = begin_end_to_end(cohort, split, recipe, head, encoder, facts, workers, tell)
    stated = with_stride(recipe, cohort, split.train, None if tiles is None else tiles.slides)
    if stated is not recipe:
        recipe, head = stated, build_head(stated, *sizes)
    _begin(folder, recipe, identity_of(cohort, split, recipe, facts))
    fit = Fit(
        cohort,
        split,
        recipe,
        head,
        weights,
        folder,
        callbacks=tuple(callbacks),
        on_progress=on_progress,
        workers=workers,
        device=device,
        tiles=tiles,
    )
    module = fit.run()
    if tiles is not None:
        tiles.judge_with(module.best_encoder, device)
    balance = {
        "slides": cohort.counts(split.train),
        "class_balance": recipe.class_balance,
        "weights": [round(float(weight), 6) for weight in weights],
    }
    made_with = encoder or find_encoder(facts)
    return _finish(fit, module, facts, made_with, balance)


def _finish(
    fit: Fit,
    module: MILModule,
    facts: FeatureFacts,
    encoder: Encoder | None,
    balance: dict[str, Any],
) -> TrainResult:
    """Judge the best epoch's weights and write what is left of the training."""
    from napari_wsi_xai.training import results
    from napari_wsi_xai.training.records import write_atomically

    cohort, split, tiles, folder = fit.cohort, fit.split, fit.tiles, fit.folder
    head = module.head
    head.load_state_dict(module.best_state)
    if tiles is not None:
        encoder = tiles.encoder.trained()
    rows = [(index, side) for side in SIDES for index in getattr(split, side)]
    chances = results.predict(head, cohort, [i for i, _ in rows], tiles, fit.kept)
    metrics = results.side_metrics(cohort, split, chances, module.recipe.seed)
    metadata = results.metadata_of(module, cohort, split, facts, balance)
    metadata["training"]["metrics"] = {side: one.to_dict() for side, one in metrics.items()}
    listed_chances = [chances[index] for index, _ in rows]
    place = folder / "predictions.csv"
    result = TrainResult(
        head=head,
        best_epoch=metadata["training"]["best_epoch"],
        history=module.history,
        metrics=metrics,
        probabilities=chances,
        model=results.write_model(module, cohort, facts, encoder, folder, metadata),
        predictions=results.write_predictions(cohort, rows, listed_chances, place),
        stopped_because=module.stopped_because,
        balance=balance,
        folder=folder,
        encoder=None if tiles is None else encoder,
    )
    with write_atomically(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(result.to_dict(), indent=1), encoding="utf-8")
    return result


def _tells_of_tissue(
    recipe: Recipe, split: Split, tell: Callable[[TrainProgress], None] | None
) -> Callable[[int, int], None] | None:
    """Tells, as progress before the first epoch, of how many slides the tissue is found."""
    from napari_wsi_xai.training.records import TrainProgress

    if tell is None:
        return None
    total = recipe.epochs * len(split.train)

    def found(done: int, slides: int) -> None:
        words = f"finding tissue, {done} of {slides} slides"
        tell(TrainProgress(0, recipe.epochs, 0, total, None, {}, words))

    return found


def with_geometry(
    facts: FeatureFacts, tile_px: int | None, mpps: Sequence[float] | None
) -> FeatureFacts:
    """Facts with what features do not say; raises where they say otherwise."""
    given = {"tile_px": tile_px, "mpps": None if mpps is None else tuple(map(float, mpps))}
    for name, value in given.items():
        known = getattr(facts, name)
        if value is not None and known not in (None, value):
            raise BadArgumentError(f"{name}={value} does not fit: the features say {known}.")
    return replace(facts, **{n: v for n, v in given.items() if v is not None})  # type: ignore[arg-type]


def check_encoder(encoder: Encoder | None, facts: FeatureFacts) -> None:
    """Raise where an encoder cannot have made the features, or too little is known of them."""
    if encoder is None:
        return
    if encoder.dim != facts.length:
        raise BadArgumentError(
            f"encoder {encoder.name} gives descriptors of length {encoder.dim}, but the features "
            f"are {facts.length} long: name the encoder that made them."
        )
    if facts.encoder_hash not in (None, encoder.content_hash):
        raise BadArgumentError(
            f"the features were made with encoder {facts.encoder}, {facts.encoder_hash}, and not "
            f"with {encoder.name}, {encoder.content_hash}: name that one, or its weights."
        )
    if facts.tile_px is None or facts.mpps is None:
        missing = "tile_px" if facts.tile_px is None else "mpps"
        raise BadArgumentError(
            f"the features do not say how tiles were cut: give {missing}, so that the model with "
            f"encoder {encoder.name} can cut them alike."
        )


def _begin(folder: Path, recipe: Recipe, identity: dict[str, Any]) -> None:
    """Make the folder, or make sure that it holds this very training."""
    from napari_wsi_xai.training.records import write_atomically

    path = folder / IDENTITY
    if path.is_file():
        require_same(json.loads(path.read_text(encoding="utf-8")), identity, folder)
        return
    if folder.is_file() or any((folder / name).exists() for name in ("last.ckpt", RESULT)):
        raise BadArgumentError(f"{folder} is there and holds something else: name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_recipe(recipe, folder / "recipe.yaml")
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(identity, indent=1), encoding="utf-8")

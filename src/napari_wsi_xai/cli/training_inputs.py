"""What commands that train take: a recipe, an encoder, slides that are encoded first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_wsi_xai.cli.console import say
from napari_wsi_xai.cli.models import numbers_of
from napari_wsi_xai.cli.progress import ProgressDisplay, duration

if TYPE_CHECKING:
    from napari_wsi_xai.models import Encoder
    from napari_wsi_xai.training.cohort import Cohort
    from napari_wsi_xai.training.encoding import EncodingProgress
    from napari_wsi_xai.training.recipes import Recipe
    from napari_wsi_xai.training.splits import Split

__all__ = [
    "check_machine",
    "encoded",
    "encoder_of",
    "names_of",
    "pairs_of",
    "settings_of",
    "splits_of",
    "tiles_of",
]


def check_machine(workers: int, device: str) -> None:
    """Raise where there is no such device, or a number of processes below 0."""
    from napari_wsi_xai.errors import BadArgumentError

    if workers < 0:
        raise BadArgumentError(f"--workers {workers} must be at least 0.")
    if device not in ("auto", "cpu", "cuda"):
        raise BadArgumentError(f"--device {device} must be auto, cpu or cuda.")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise BadArgumentError("--device cuda: there is no CUDA device; take auto or cpu.")


def settings_of(head: str | None, recipe: Path | None, given: list[str]) -> Recipe:
    """The recipe of a file, or the authors' of a head, with settings of the command line."""
    from napari_wsi_xai.errors import BadArgumentError
    from napari_wsi_xai.training.recipes import read_recipe, recipe_for

    settings = pairs_of(given)
    if recipe is not None:
        return read_recipe(recipe, head, **settings)
    if head is None:
        raise BadArgumentError("there is nothing to train: give --head NAME or --recipe FILE.")
    return recipe_for(head, **settings)


def pairs_of(given: list[str]) -> dict[str, Any]:
    """Settings by name of words KEY=VALUE."""
    from napari_wsi_xai.errors import BadArgumentError

    settings: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise BadArgumentError(f"--set {pair!r} must be KEY=VALUE.")
        if name.strip() == "architecture":
            raise BadArgumentError(f"--set {pair}: name the head with --head or in the recipe.")
        settings[name.strip()] = value.strip()
    return settings


def names_of(given: str) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in given.split(",")]


def encoder_of(name: str | None, weights: str | None) -> Encoder | None:
    """An encoder by name, or that of a model bundle."""
    from napari_wsi_xai.errors import BadArgumentError
    from napari_wsi_xai.models import build_encoder, load_model
    from napari_wsi_xai.models.checkpoints.reading import is_bundle

    if name is None:
        if weights is not None:
            raise BadArgumentError("--encoder-weights needs --encoder NAME, the network it is of.")
        return None
    if is_bundle(Path(name)):
        return load_model(name).encoder
    return build_encoder(name, weights)


def tiles_of(
    cohort: Cohort, encoder: str | None, tile_px: int | None, tile_mpp: str | None
) -> dict[str, Any]:
    """Edge and um/px of tiles as told, or as a bundle has them where tiles are yet to be cut."""
    from napari_wsi_xai.models import load_model
    from napari_wsi_xai.models.checkpoints.reading import is_bundle

    told = {"tile_px": tile_px, "mpps": None if tile_mpp is None else numbers_of(tile_mpp)}
    uncut = any(case.kind == "slide" for case in cohort.cases)
    if encoder is None or not uncut or not is_bundle(Path(encoder)):
        return told
    bundle = load_model(encoder)
    return {"tile_px": told["tile_px"] or bundle.tile_px, "mpps": told["mpps"] or bundle.mpps}


def encoded(
    cohort: Cohort, recipe: Recipe, members: int | None, out: Path, options: dict[str, Any]
) -> Cohort:
    """The cohort with features of all slides; those that have none are encoded first.

    ``options`` are those of the training. A head that cannot be trained is told before.
    """
    from napari_wsi_xai.errors import BadArgumentError
    from napari_wsi_xai.models.mil.ensemble import ensemble_of
    from napari_wsi_xai.training.encoding import encode_cohort
    from napari_wsi_xai.training.heads import build_head

    waiting = [case.slide for case in cohort.cases if case.kind == "slide"]
    if not waiting:
        return cohort
    encoder, tile_px, mpps = (options[name] for name in ("encoder", "tile_px", "mpps"))
    if encoder is None:
        raise BadArgumentError(
            f"{len(waiting)} slides have no features yet ({waiting[0]}): give --encoder NAME, "
            "which they are encoded with first."
        )
    head = build_head(recipe, encoder.dim, len(cohort.classes), len(mpps or (0,)))
    if members is not None:
        ensemble_of([head])
    with ProgressDisplay("encoding", "slides") as display:

        def show(progress: EncodingProgress) -> None:
            left = "" if progress.eta_s is None else f", {duration(progress.eta_s)} left"
            display.count(progress.number - 1, progress.slides, f"{progress.slide}{left}")

        return encode_cohort(
            cohort,
            encoder,
            out / "features",
            tile_px=tile_px or 224,
            mpp=mpps or 0.5,
            tell=show,
            device=options["device"],
        )


def splits_of(cohort: Cohort, folds: int | None, seed: int, val: float | None) -> tuple[Split, ...]:
    """Folds, or the split that the cohort states, else one drawn by the recipe's seed.

    ``val`` is the share of patients for validation where the cohort does not state whose those
    are; None for the share that is drawn by default.
    """
    from napari_wsi_xai.training.loaders import class_weights
    from napari_wsi_xai.training.splits import given, hold_out, k_fold

    share = {} if val is None else {"val": val}
    stated = {case.split for case in cohort.cases} - {None}
    if folds is not None:
        if stated:
            say("the column split is not heeded: every slide is tested in one of the folds.")
        return k_fold(cohort, folds, seed=seed, **share)
    if "val" in stated and share:
        say("--val is not heeded: the column split states the slides for validation.")
    split = (given if stated else hold_out)(cohort, seed=seed, **share)
    class_weights(cohort, split.train)  # else told after slides are encoded
    return (split,)

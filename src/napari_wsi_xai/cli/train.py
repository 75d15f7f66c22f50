"""``train``: a MIL head on slide labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_wsi_xai.cli import app
from napari_wsi_xai.cli.console import JsonOption, say
from napari_wsi_xai.cli.models import EncoderWeightsOption, numbers_of
from napari_wsi_xai.cli.progress import ProgressDisplay, duration
from napari_wsi_xai.cli.train_words import print_crossed, print_result, tell, words_of

if TYPE_CHECKING:
    from napari_wsi_xai.models import Encoder
    from napari_wsi_xai.training.cohort import Cohort
    from napari_wsi_xai.training.crossval import CrossValidation
    from napari_wsi_xai.training.fit import TrainResult
    from napari_wsi_xai.training.recipes import Recipe
    from napari_wsi_xai.training.records import TrainProgress
    from napari_wsi_xai.training.splits import Split

__all__ = ["train"]


@app.command()
def train(
    cohort: Annotated[
        Path, typer.Argument(metavar="COHORT.csv", help="Columns slide, label, patient, (split).")
    ],
    features: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of run stores, .h5 or .pt features.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results.")],
    head: Annotated[
        str | None, typer.Option(metavar="NAME", help="MIL head; may be named in the recipe.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML of settings; else the authors'.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, before those of the recipe."),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(metavar="K", help="Cross-validate with K folds.")
    ] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option(metavar="SLIDE", help="Map this slide after every epoch; repeatable."),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(metavar="WORDS", help='As in "stop when attention on excluded > 0.5".'),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What made the features, where they do not say."),
    ] = None,
    encoder_weights: EncoderWeightsOption = None,
    tile_px: Annotated[
        int | None, typer.Option(metavar="PX", help="Edge of a tile, where features do not say.")
    ] = None,
    tile_mpp: Annotated[
        str | None, typer.Option(metavar="UM[,UM...]", help="Its um/px, likewise, coarse to fine.")
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that read bags.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a MIL head on slide labels; the same command goes on after a kill."""
    from napari_wsi_xai.training.cohort import read_cohort

    _check(folds, workers, device)
    settings = _settings(head, recipe, setting or [])
    slides = read_cohort(cohort, features)
    made_with = _encoder(encoder, encoder_weights)
    options: dict[str, Any] = {
        "encoder": made_with,
        "tile_px": tile_px,
        "mpps": None if tile_mpp is None else numbers_of(tile_mpp),
        "workers": workers,
        "device": device,
    }
    watched = [*dict.fromkeys(watch or [])]
    _check_watched(slides, watched, rule or [])
    try:
        slides = _encoded(slides, made_with, out, tile_px, options["mpps"])
        watching = _watching(slides, watched, rule or [])
        if folds is None:
            result = _train_once(slides, settings, out, watching, options)
            tell(result.to_dict(), as_json, lambda: print_result(result))
        else:
            crossed = _cross(slides, folds, settings, out, watching, options)
            tell(crossed.to_dict(), as_json, lambda: print_crossed(crossed))
    except KeyboardInterrupt:
        say(f"what was trained up to the last epoch is in {out}: the same command goes on.")
        raise


def _check(folds: int | None, workers: int, device: str) -> None:
    from napari_wsi_xai.errors import BadArgumentError

    if folds is not None and folds < 2:
        raise BadArgumentError(f"--folds {folds} must be at least 2.")
    if workers < 0:
        raise BadArgumentError(f"--workers {workers} must be at least 0.")
    if device not in ("auto", "cpu", "cuda"):
        raise BadArgumentError(f"--device {device} must be auto, cpu or cuda.")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise BadArgumentError("--device cuda: there is no CUDA device; take auto or cpu.")


def _settings(head: str | None, recipe: Path | None, given: list[str]) -> Recipe:
    """The recipe of a file, or the authors' of a head, with settings of the command line."""
    from napari_wsi_xai.errors import BadArgumentError
    from napari_wsi_xai.training.recipes import read_recipe, recipe_for

    settings: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise BadArgumentError(f"--set {pair!r} must be KEY=VALUE.")
        settings[name.strip()] = value.strip()
    if recipe is not None:
        return read_recipe(recipe, head, **settings)
    if head is None:
        raise BadArgumentError("there is nothing to train: give --head NAME or --recipe FILE.")
    return recipe_for(head, **settings)


def _encoder(name: str | None, weights: str | None) -> Encoder | None:
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


def _encoded(
    cohort: Cohort, encoder: Encoder | None, out: Path, tile_px: int | None, mpps: Any
) -> Cohort:
    """The cohort with features of all slides; those that have none are encoded first."""
    from napari_wsi_xai.errors import BadArgumentError
    from napari_wsi_xai.training.encoding import EncodingProgress, encode_cohort

    waiting = [case.slide for case in cohort.cases if case.kind == "slide"]
    if not waiting:
        return cohort
    if encoder is None:
        raise BadArgumentError(
            f"{len(waiting)} slides have no features yet ({waiting[0]}): give --encoder NAME, "
            "which they are encoded with first."
        )
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
        )


def _check_watched(cohort: Cohort, names: list[str], rules: list[str]) -> None:
    from napari_wsi_xai.errors import BadArgumentError

    known = {case.slide for case in cohort.cases}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BadArgumentError(f"--watch {unknown[0]}: there is no such slide in the cohort.")
    if rules and not names:
        raise BadArgumentError("--rule needs slides to judge by: give --watch SLIDE.")


def _watching(cohort: Cohort, names: list[str], rules: list[str]) -> Any:
    """Makes the callbacks that watch slides in a folder."""

    def callbacks(folder: Path) -> list[Any]:
        if not names:
            return []
        from napari_wsi_xai.training.lightning_import import import_lightning

        import_lightning()
        from napari_wsi_xai.training.watch import STORE_NAME, WatchSlides

        watched = [case for case in cohort.cases if case.slide in names]
        return [WatchSlides(watched, cohort.classes, folder / STORE_NAME, rules=rules)]

    return callbacks


def _split(cohort: Cohort, seed: int) -> Split:
    """The split that the cohort states, else one drawn by the recipe's seed."""
    from napari_wsi_xai.training.splits import given, hold_out

    stated = any(case.split for case in cohort.cases)
    return given(cohort, seed=seed) if stated else hold_out(cohort, seed=seed)


def _train_once(
    cohort: Cohort, recipe: Recipe, out: Path, watching: Any, options: dict[str, Any]
) -> TrainResult:
    from napari_wsi_xai.training.fit import train as fit

    split = _split(cohort, recipe.seed)
    with ProgressDisplay(recipe.architecture, "slides") as display:

        def show(progress: TrainProgress) -> None:
            display.count(progress.slides_done, progress.slides_total, words_of(progress))

        return fit(cohort, split, recipe, out, callbacks=watching(out), on_progress=show, **options)


def _cross(
    cohort: Cohort, folds: int, recipe: Recipe, out: Path, watching: Any, options: dict[str, Any]
) -> CrossValidation:
    from napari_wsi_xai.training.crossval import cross_validate
    from napari_wsi_xai.training.splits import k_fold

    splits = k_fold(cohort, folds, seed=recipe.seed)
    with ProgressDisplay(recipe.architecture, "slides") as display:

        def show(fold: int, progress: TrainProgress) -> None:
            done = fold * progress.slides_total + progress.slides_done
            words = f"fold {fold + 1} of {folds}, {words_of(progress)}"
            display.count(done, folds * progress.slides_total, words)

        return cross_validate(
            cohort,
            splits,
            recipe,
            out,
            callbacks=lambda number, folder: watching(folder),
            on_progress=show,
            **options,
        )

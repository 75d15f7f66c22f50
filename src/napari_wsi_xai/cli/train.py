"""``train``: a MIL head on slide labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_wsi_xai.cli import app
from napari_wsi_xai.cli.console import JsonOption, say
from napari_wsi_xai.cli.models import EncoderWeightsOption
from napari_wsi_xai.cli.progress import ProgressDisplay
from napari_wsi_xai.cli.train_watch import Watch, watch_of
from napari_wsi_xai.cli.train_words import (
    print_crossed,
    print_ensemble,
    print_result,
    tell,
    words_of,
)
from napari_wsi_xai.cli.training_inputs import (
    check_machine,
    encoded,
    encoder_of,
    names_of,
    settings_of,
    splits_of,
    tiles_of,
)
from napari_wsi_xai.cli.training_options import (
    DeviceOption,
    RuleOption,
    SettingOption,
    SlideMppOption,
    WatchOption,
    WorkersOption,
)

if TYPE_CHECKING:
    from napari_wsi_xai.training.cohort import Cohort
    from napari_wsi_xai.training.crossval import CrossValidation
    from napari_wsi_xai.training.ensemble import EnsembleResult
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
    setting: SettingOption = None,
    classes: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Labels in the order of the outputs.")
    ] = None,
    val: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Of patients, to validate with if none are stated."),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(metavar="K", help="Cross-validate with K folds.")
    ] = None,
    members: Annotated[
        int | None,
        typer.Option(metavar="N", help="Train N heads from other seeds; their mean decides."),
    ] = None,
    watch: WatchOption = None,
    rule: RuleOption = None,
    rules: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML list of such rules.")
    ] = None,
    every: Annotated[
        int | None, typer.Option(metavar="N", help="Map after every N steps, not every epoch.")
    ] = None,
    outlines: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Outlines <slide>.geojson, of excluded regions too."),
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
    mpp: SlideMppOption = None,
    workers: WorkersOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a MIL head on slide labels; the same command goes on after a kill."""
    from napari_wsi_xai.training.cohort import read_cohort

    _check(folds, members, val, workers, device)
    settings = settings_of(head, recipe, setting or [])
    slides = read_cohort(
        cohort, features, classes=None if classes is None else names_of(classes)
    ).with_mpp(mpp)
    splits = splits_of(slides, folds, settings.seed, val)
    options: dict[str, Any] = {
        "encoder": encoder_of(encoder, encoder_weights),
        **tiles_of(slides, encoder, tile_px, tile_mpp),
        "workers": workers,
        "device": device,
    }
    watching = watch_of(slides, cohort, watch or [], rule or [], rules, every, outlines)
    try:
        if not settings.end_to_end:
            slides = encoded(slides, settings, members, out, options)
        if folds is not None:
            crossed = _cross(slides, splits, members, settings, out, watching, options)
            tell(crossed.to_dict() | watching.facts(), as_json, lambda: print_crossed(crossed))
        elif members is not None:
            several = _train_members(slides, splits[0], members, settings, out, watching, options)
            tell(several.to_dict() | watching.facts(), as_json, lambda: print_ensemble(several))
        else:
            result = _train_once(slides, splits[0], settings, out, watching, options)
            tell(result.to_dict() | watching.facts(), as_json, lambda: print_result(result))
        watching.tell()
    except KeyboardInterrupt:
        say(f"what was trained up to the last epoch is in {out}: the same command goes on.")
        raise


def _check(
    folds: int | None, members: int | None, val: float | None, workers: int, device: str
) -> None:
    from napari_wsi_xai.errors import BadArgumentError

    if folds is not None and folds < 2:
        raise BadArgumentError(f"--folds {folds} must be at least 2.")
    if members is not None and members < 1:
        raise BadArgumentError(f"--members {members} must be at least 1.")
    if val is not None and not 0 <= val < 1:
        raise BadArgumentError(f"--val {val:g} must be a share, at least 0 and below 1.")
    check_machine(workers, device)


def _train_once(
    cohort: Cohort,
    split: Split,
    recipe: Recipe,
    out: Path,
    watching: Watch,
    options: dict[str, Any],
) -> TrainResult:
    from napari_wsi_xai.training.fit import train as fit

    with ProgressDisplay(recipe.architecture, "slides") as display:

        def show(progress: TrainProgress) -> None:
            display.count(progress.slides_done, progress.slides_total, words_of(progress))

        callbacks = watching.callbacks(cohort, out)
        return fit(cohort, split, recipe, out, callbacks=callbacks, on_progress=show, **options)


def _train_members(
    cohort: Cohort,
    split: Split,
    members: int,
    recipe: Recipe,
    out: Path,
    watching: Watch,
    options: dict[str, Any],
) -> EnsembleResult:
    from napari_wsi_xai.training.ensemble import train_ensemble

    with ProgressDisplay(recipe.architecture, "slides") as display:

        def show(member: int, progress: TrainProgress) -> None:
            done = member * progress.slides_total + progress.slides_done
            words = f"member {member + 1} of {members}, {words_of(progress)}"
            display.count(done, members * progress.slides_total, words)

        return train_ensemble(
            cohort,
            split,
            recipe,
            out,
            members,
            callbacks=lambda number, folder: watching.callbacks(cohort, folder),
            on_progress=show,
            **options,
        )


def _cross(
    cohort: Cohort,
    splits: tuple[Split, ...],
    members: int | None,
    recipe: Recipe,
    out: Path,
    watching: Watch,
    options: dict[str, Any],
) -> CrossValidation:
    from napari_wsi_xai.training.crossval import cross_validate

    folds, each = len(splits), members or 1
    with ProgressDisplay(recipe.architecture, "slides") as display:

        def show(number: int, progress: TrainProgress) -> None:
            done = number * progress.slides_total + progress.slides_done
            member = "" if members is None else f"member {number % each + 1} of {each}, "
            words = f"fold {number // each + 1} of {folds}, {member}{words_of(progress)}"
            display.count(done, folds * each * progress.slides_total, words)

        return cross_validate(
            cohort,
            splits,
            recipe,
            out,
            members=members,
            callbacks=lambda number, folder: watching.callbacks(cohort, folder),
            on_progress=show,
            **options,
        )

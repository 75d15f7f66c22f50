"""``reproduce``: a paper's head on a published data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_wsi_xai.cli import app
from napari_wsi_xai.cli.console import JsonOption, say
from napari_wsi_xai.cli.models import numbers_of
from napari_wsi_xai.cli.progress import ProgressDisplay, duration
from napari_wsi_xai.cli.reproduce_words import progress_words, reader_options, tell_plan
from napari_wsi_xai.cli.train_watch import Watch, watch_of
from napari_wsi_xai.cli.train_words import print_crossed, print_ensemble, print_result, tell
from napari_wsi_xai.cli.training_inputs import check_machine, encoder_of, pairs_of
from napari_wsi_xai.cli.training_options import (
    DeviceOption,
    RuleOption,
    SettingOption,
    SlideMppOption,
    WatchOption,
    WorkersOption,
)

if TYPE_CHECKING:
    from napari_wsi_xai.models import Encoder
    from napari_wsi_xai.training.encoding import EncodingProgress
    from napari_wsi_xai.training.records import TrainProgress
    from napari_wsi_xai.training.reproduction import Reproduction

__all__ = ["reproduce"]


@app.command()
def reproduce(
    data_set: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="camelyon16, crc-histophenotypes, bracs or tcga."),
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="Where it lies, in the folders it comes in.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of features and results.")],
    head: Annotated[str | None, typer.Option(metavar="NAME", help="Another MIL head.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML of settings; else the paper's.")
    ] = None,
    setting: SettingOption = None,
    encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another encoder, or a model bundle's.")
    ] = None,
    encoder_weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DEFAULT|none",
            help="Its weights; the paper's where its encoder is taken, else none (random ones).",
        ),
    ] = None,
    end_to_end: Annotated[
        bool | None,
        typer.Option(
            "--end-to-end/--frozen-encoder", help="Train the encoder too, or not; else as in paper."
        ),
    ] = None,
    tile_px: Annotated[
        int | None, typer.Option(metavar="PX", help="Another edge of a tile in pixels.")
    ] = None,
    tile_mpp: Annotated[
        str | None, typer.Option(metavar="UM[,UM...]", help="At other um/px, coarse to fine.")
    ] = None,
    mpp: SlideMppOption = None,
    min_tissue: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Smallest share of tissue in a tile, 0 to 1."),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(metavar="K", help="Cross-validate with K folds; 1: the official split."),
    ] = None,
    members: Annotated[
        int | None, typer.Option(metavar="N", help="Heads from other seeds whose mean decides.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(metavar="WORD", help="bracs: group or type; tcga: column of clinical.tsv."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="tcga: values of that column to take.")
    ] = None,
    slides: Annotated[
        str | None,
        typer.Option(metavar="PART", help="tcga: part of the names of slides to take, * for all."),
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Require every training slide or image.")
    ] = False,
    no_outlines: Annotated[
        bool, typer.Option("--no-outlines", help="camelyon16: do without tumour outlines.")
    ] = False,
    watch: WatchOption = None,
    rule: RuleOption = None,
    workers: WorkersOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train on a published data set as the paper did that is reproduced on it.

    camelyon16: CHOWDER (Courtiol et al. 2018), the mean of ten heads, on ResNet-50 descriptors at
    0.5 um/px, official split. crc-histophenotypes: ABMIL (Ilse et al. 2018), end to end on tiles
    of 27 px around nuclei, 10 folds. bracs: ZoomMIL (Thandiackal et al. 2022) on ResNet-50
    descriptors at 8, 4 and 1 um/px, official split. tcga: CLAM-SB (Lu et al. 2021) on ResNet-50
    descriptors at 0.5 um/px, 10 folds.

    Everything can be overridden; the same command goes on after a kill.
    """
    from napari_wsi_xai.training.reproduction import plan_reproduction

    check_machine(workers, device)
    planned = plan_reproduction(
        data_set,
        data,
        head=head,
        recipe=recipe,
        settings=pairs_of(setting or []),
        encoder=_encoder(encoder),
        weights=encoder_weights,
        end_to_end=end_to_end,
        tile_px=tile_px,
        mpps=None if tile_mpp is None else numbers_of(tile_mpp),
        folds=folds,
        members=members,
        **reader_options(data_set, label, classes, slides, complete, no_outlines),
    )
    watching = watch_of(planned.cohort, None, watch or [], rule or [], None, None, None)
    tell_plan(planned)
    try:
        read = {"slide_mpp": mpp, "min_tissue": min_tissue}
        _run(planned, out, watching, as_json, workers=workers, device=device, **read)
    except KeyboardInterrupt:
        say(f"what was encoded and trained is in {out}: the same command goes on.")
        raise


def _encoder(name: str | None) -> Encoder | str | None:
    """The encoder of a bundle, where the name is of one."""
    from napari_wsi_xai.models.checkpoints.reading import is_bundle

    return encoder_of(name, None) if name is not None and is_bundle(Path(name)) else name


def _run(planned: Reproduction, out: Path, watching: Watch, as_json: bool, **options: Any) -> None:
    """Encode, train and tell what came of it, with progress."""
    from napari_wsi_xai.training.ensemble import EnsembleResult
    from napari_wsi_xai.training.fit import TrainResult
    from napari_wsi_xai.training.reproducing import reproduce as run

    with (
        ProgressDisplay("encoding", "slides") as encoding,
        ProgressDisplay(planned.recipe.architecture, "slides") as training,
    ):

        def encoded(progress: EncodingProgress) -> None:
            left = "" if progress.eta_s is None else f", {duration(progress.eta_s)} left"
            encoding.count(progress.number - 1, progress.slides, f"{progress.slide}{left}")

        def trained(number: int, progress: TrainProgress) -> None:
            done = number * progress.slides_total + progress.slides_done
            total = planned.trainings * progress.slides_total
            training.count(done, total, progress_words(planned, number, progress))

        result = run(
            planned,
            out,
            tell=encoded,
            on_progress=trained,
            callbacks=watching.callbacks,
            **options,
        )
    show: Callable[[Any], None] = print_crossed
    if isinstance(result, TrainResult):
        show = print_result
    elif isinstance(result, EnsembleResult):
        show = print_ensemble
    facts = {"reproduction": planned.to_dict(), **result.to_dict(), **watching.facts()}
    tell(facts, as_json, lambda: show(result))
    watching.tell()

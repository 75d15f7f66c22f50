"""``score``: slides through a model, into result stores."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_wsi_xai.cli import app
from napari_wsi_xai.cli.console import (
    INTERRUPTED,
    JsonOption,
    complain,
    describe,
    emit_json,
    exit_status,
    say,
)
from napari_wsi_xai.cli.models import (
    ClassesOption,
    EncoderOption,
    EncoderWeightsOption,
    HeadOption,
    SeedOption,
    TileMppOption,
    TilePxOption,
    untrained_model,
)
from napari_wsi_xai.cli.progress import ProgressDisplay
from napari_wsi_xai.cli.slides import MppOption
from napari_wsi_xai.errors import BadArgumentError

if TYPE_CHECKING:
    from napari_wsi_xai.models import Model
    from napari_wsi_xai.runs import Run, ZoomRun

__all__ = ["score"]

DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="auto, float32, bfloat16 or float16; auto leaves float32 only where every "
        "descriptor of a test batch keeps a cosine of 0.999 with it."
    ),
]
EngineOption = Annotated[str, typer.Option(help="auto, torch or openvino.")]
StoreFolderOption = Annotated[
    Path,
    typer.Option("--out", metavar="DIR", help="Folder for the results, one NAME.wsixai.zarr each."),
]

NOTABLE = 0.005
"""A share of tissue that is not looked at is told from half a per cent on."""


@dataclass
class Outcome:
    """What became of one slide."""

    slide: str
    store: str | None = None
    status: str = "failed"  # or "done", "skipped" (finished before), "interrupted"
    tiles: int = 0
    tissue_tiles: int = 0
    failed_tiles: int = 0
    predicted: str | None = None
    probabilities: dict[str, float] = field(default_factory=dict)
    precision: str | None = None
    trace: dict[str, Any] | None = None
    error: str | None = None
    exit_status: int = 0

    def of_run(self, run: Run | ZoomRun) -> None:
        """Take over what the run knows so far."""
        from napari_wsi_xai.runs import ZoomRun

        self.tiles, self.tissue_tiles = run.done, run.total
        self.failed_tiles = len(run.failures)
        self.predicted, self.probabilities = run.predicted, run.probabilities
        self.precision = (run.store.attributes.get("engine") or {}).get("precision")
        if isinstance(run, ZoomRun):
            self.trace = run.trace.to_dict()

    def line(self) -> str:
        """One line for people."""
        chances = ", ".join(f"{name} {p:.3f}" for name, p in self.probabilities.items())
        failed = f", {self.failed_tiles} of them failed" if self.failed_tiles else ""
        before = " (finished before, skipped)" if self.status == "skipped" else ""
        tiles = f"{self.tissue_tiles} tissue tiles{failed}"
        if self.trace is not None:
            share, most = self.trace["share"], self.trace["tiles"]
            tiles = f"{self.trace['read']} of {most} tiles read ({share:.1%}){failed}"
            if (outside := self.trace["tissue_left_out"]) >= NOTABLE:
                tiles += f"; {outside:.0%} of the tissue not looked at, see --min-tissue"
        return f"{self.slide}: {chances}; {tiles} -> {self.store}{before}"


@dataclass(frozen=True)
class Settings:
    """What all slides of one call share."""

    out: Path
    mpp: float | None
    arguments: dict[str, Any]
    as_json: bool
    debug: bool


@app.command()
def score(
    context: typer.Context,
    slides: Annotated[
        list[str], typer.Argument(metavar="SLIDE...", help="Files, folders or URLs.")
    ],
    out: StoreFolderOption,
    model: Annotated[
        Path | None, typer.Option(metavar="M", help="A model bundle, see `models create`.")
    ] = None,
    encoder: EncoderOption = None,
    encoder_weights: EncoderWeightsOption = None,
    head: HeadOption = None,
    classes: ClassesOption = None,
    tile_px: TilePxOption = None,
    tile_mpp: TileMppOption = None,
    seed: SeedOption = None,
    mpp: MppOption = None,
    tissue: Annotated[
        str,
        typer.Option(
            metavar="auto|none|FILE.geojson",
            help="How tissue is found: by colour, not at all (every tile counts), or drawn.",
        ),
    ] = "auto",
    min_tissue: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Smallest share of a tile that must be tissue, 0 to 1; of a tile at the lowest "
            "magnification, where there are several.",
        ),
    ] = None,
    precision: PrecisionOption = "auto",
    device: DeviceOption = "auto",
    engine: EngineOption = "auto",
    batch_size: Annotated[
        int | None, typer.Option(help="Most tiles in one call of the encoder; 32, on a GPU 64.")
    ] = None,
    exhaustive: Annotated[
        bool,
        typer.Option(
            "--exhaustive", help="Read all tiles of every magnification, also those not opened."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Score the tiles of slides with a model.

    Finished slides are skipped and begun ones gone on with, so the same command may be given
    again at any time. A slide that fails does not stop the others.
    """
    from napari_wsi_xai.tiles import TissueOptions

    chosen = _model(model, (encoder, encoder_weights, head, classes, tile_px, tile_mpp, seed))
    settings = Settings(
        out,
        mpp,
        {
            "tissue": TissueOptions(method=tissue) if tissue in ("auto", "none") else Path(tissue),  # type: ignore[arg-type]
            "min_tissue": min_tissue,
            "precision": precision,
            "device": device,
            "engine": engine,
            "batch_size": batch_size,
            "exhaustive": exhaustive,
        },
        as_json,
        bool(context.find_root().params.get("debug")),
    )
    outcomes = _score_all(slides, chosen, settings)
    if as_json:
        emit_json({"model": chosen.name, "results": [vars(outcome) for outcome in outcomes]})
    raise typer.Exit(_report(outcomes, len(slides)))


def _model(bundle: Path | None, parts: tuple[Any, ...]) -> Model:
    """Load the bundle, or put an untrained model together; one of them must be asked for."""
    encoder, weights, head, classes, tile_px, tile_mpp, seed = parts
    if (bundle is None) == (encoder is None):
        raise BadArgumentError("Give a model: either --model BUNDLE or --encoder NAME.")
    if bundle is None:
        model = untrained_model(encoder, weights, head, classes, tile_px, tile_mpp, seed)
    elif any(part is not None for part in parts):
        raise BadArgumentError(
            "--model brings its own encoder, head, classes and tile size: leave out "
            "--encoder-weights, --head, --classes, --tile-px, --tile-mpp and --seed."
        )
    else:
        from napari_wsi_xai.models import load_model

        model = load_model(bundle)
    if model.metadata.get("trained") is False:
        say(
            f"WARNING: the head of this model ({model.mil.architecture}) is UNTRAINED. Its scores "
            "and probabilities are random numbers and mean nothing about the tissue."
        )
    elif not model.encoder.trained:
        say(
            f"WARNING: the encoder of this model ({model.encoder.name}) is UNTRAINED, so its "
            "head sees random descriptors. Scores and probabilities mean nothing about the tissue."
        )
    return model


def _score_all(slides: list[str], model: Model, settings: Settings) -> list[Outcome]:
    """Score slide after slide; a failure or an interruption is noted in its outcome."""
    outcomes: list[Outcome] = []
    taken: dict[str, str] = {}
    settings.out.mkdir(parents=True, exist_ok=True)
    for slide in slides:
        outcome = Outcome(slide)
        outcomes.append(outcome)
        try:
            _score_one(outcome, model, settings, taken)
        except KeyboardInterrupt:
            outcome.status = "interrupted"
            break
        except Exception as error:  # whatever it is, the other slides go on
            if settings.debug:
                traceback.print_exc()
            outcome.error, outcome.exit_status = describe(error), exit_status(error) or 1
            continue
        if not settings.as_json:
            print(outcome.line(), flush=True)
    return outcomes


def _score_one(outcome: Outcome, model: Model, settings: Settings, taken: dict[str, str]) -> None:
    from napari_wsi_xai.runs import score as start
    from napari_wsi_xai.slides import open_slide

    with open_slide(outcome.slide, mpp=settings.mpp) as slide:
        store = settings.out / f"{slide.name}.wsixai.zarr"
        if (other := taken.setdefault(slide.name, outcome.slide)) != outcome.slide:
            raise BadArgumentError(
                f"{other} has the same name {slide.name!r} and owns {store}: score the two into "
                "different folders."
            )
        outcome.store = str(store)
        run = start(slide, model, out=store, **settings.arguments)
        # A result may be provisional: of tiles that a window showed before the last were done.
        finished_before = run.complete and bool(run.result and run.result["complete"])
        try:
            if not finished_before:
                _work(run, slide.name)
        finally:
            outcome.of_run(run)
        outcome.status = "skipped" if finished_before else "done"


def _work(run: Run | ZoomRun, name: str) -> None:
    """Do the run and show how it goes."""
    if run.done:
        say(f"{name}: going on after {run.done} of {run.total} tiles.")
    noted = ""
    with ProgressDisplay(name) as display:
        for progress in run:
            if run.note != noted:
                noted = run.note
                display.note(noted)
            display.show(progress)


def _report(outcomes: list[Outcome], asked: int) -> int:
    """Say what failed or was cut short, and return the exit status."""
    sys.stdout.flush()
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in failed:
        complain(outcome.error or "" if asked == 1 else f"{outcome.slide}: {outcome.error}")
    last = outcomes[-1]
    if last.status == "interrupted":
        say(
            f"interrupted at {last.slide} ({last.tiles} of {last.tissue_tiles} tiles done). "
            "Nothing finished is lost: give the same command again to go on."
        )
        return INTERRUPTED
    if not failed:
        return 0
    return failed[0].exit_status if asked == 1 else 1

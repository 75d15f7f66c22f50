"""``demo``: an artificial slide with known tumour, scored and measured."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_wsi_xai.cli import app
from napari_wsi_xai.cli.console import JsonOption, emit_json
from napari_wsi_xai.cli.progress import ProgressDisplay, duration

if TYPE_CHECKING:
    from napari_wsi_xai.demo import DemoResult

__all__ = ["demo"]

STAGES = {"slide": ("making the slide", "blocks"), "score": ("scoring", "tiles")}


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything it makes.")] = (
        Path("napari-wsi-xai-demo")
    ),
    seed: Annotated[int, typer.Option(help="Another seed gives another slide.")] = 0,
    size: Annotated[int, typer.Option(metavar="PX", help="Side of the slide in pixels.")] = 8000,
    view: Annotated[bool, typer.Option("--view", help="Show it in napari afterwards.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make an artificial slide with known tumour, score it, and measure the scores.

    Needs no network, no data and no display.
    """
    from napari_wsi_xai.demo import run_demo

    with _Stages() as stages:
        result = run_demo(out, seed=seed, size=size, progress=stages.show)
    if as_json:
        emit_json(result.to_dict())
    else:
        print("\n".join(_lines(result)))
    if view:
        from napari_wsi_xai.cli.view import open_window

        open_window([str(result.store)], truth=(result.slide, result.truth))


class _Stages:
    """One progress display after the other."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._stack = ExitStack()
        self._display: ProgressDisplay | None = None

    def __enter__(self) -> _Stages:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def show(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage has come."""
        if stage != self._stage:
            self._stack.close()
            self._stage, self._display = stage, None
            if stage in STAGES:
                self._display = self._stack.enter_context(ProgressDisplay(*STAGES[stage]))
        if self._display is not None:
            self._display.count(done, total)


def _lines(result: DemoResult) -> list[str]:
    """Return what there is to say for people."""
    found = result.localisation
    chances = ", ".join(f"{name} {p:.3f}" for name, p in result.probabilities.items())
    low, high = found.ci
    random_low, random_high = found.random_ci
    reused = f" (taken up: {', '.join(result.reused)})" if result.reused else ""
    return [
        f"slide         {result.slide}, {result.size} x {result.size} px, seed {result.seed}",
        f"prediction    {result.predicted} ({chances}); the slide does hold tumour",
        f"localisation  AUC {found.auc:.3f} (95 % interval {low:.3f} to {high:.3f}) of the tile "
        f"scores over {found.n_positive} tiles in tumour nests and {found.n_negative} outside",
        f"random map    AUC {found.random_auc:.3f} "
        f"(95 % of maps: {random_low:.3f} to {random_high:.3f})",
        f"results       {result.store}",
        f"outlines      {result.truth}",
        f"picture       {result.overview}",
        f"time          {duration(result.timings_s['total'])}{reused}",
    ]

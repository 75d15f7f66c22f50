"""``export`` and ``import``: features in the files that other MIL programs use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_wsi_xai.cli import app
from napari_wsi_xai.cli.console import JsonOption, emit_json, say
from napari_wsi_xai.errors import BadArgumentError

__all__ = ["export", "import_features"]


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A result store (.wsixai.zarr).")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT.h5|OUT.pt", help="HDF5 as CLAM and TRIDENT, or a bag.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Write the features of a scored slide as .h5 (features, coords) or .pt (features alone)."""
    from napari_wsi_xai.runs import FeatureBag, ZoomRun, open_run, write_feature_bag

    stored = open_run(run)
    if isinstance(stored, ZoomRun):
        raise BadArgumentError(
            f"{run} holds {len(stored.mpps)} magnifications: name one of them, from "
            f"{run / 'magnifications' / '0'} (the coarsest) on."
        )
    written = write_feature_bag(FeatureBag.of(stored), out)
    if as_json:
        emit_json({"run": str(run), "out": str(written)})
    else:
        say(f"{run} -> {written}")


@app.command("import")
def import_features(
    features: Annotated[
        Path, typer.Argument(metavar="FEATURES.h5", help="Features and coords, CLAM or TRIDENT.")
    ],
    model: Annotated[
        Path, typer.Option(metavar="M", help="The bundle whose MIL head explains them.")
    ],
    mpp: Annotated[
        float, typer.Option(metavar="UM", help="Micrometres per pixel of the slide's finest level.")
    ],
    out: Annotated[Path, typer.Option(metavar="RUN.wsixai.zarr", help="The result store to make.")],
    as_json: JsonOption = False,
) -> None:
    """Score features that another program has extracted, without touching the slide."""
    from napari_wsi_xai.models import load_model
    from napari_wsi_xai.runs import read_feature_bag, run_from_bag

    if not 0 < mpp < float("inf"):
        raise BadArgumentError(f"--mpp {mpp} must be above 0.")
    bundle = load_model(model)
    bag = read_feature_bag(features)
    run = run_from_bag(bag, bundle.mil, bundle.classes, (mpp, mpp), out=out, name=features.stem)
    if as_json:
        emit_json({"out": str(out), "tiles": run.total, "probabilities": run.probabilities})
        return
    chances = ", ".join(f"{name} {p:.3f}" for name, p in run.probabilities.items())
    print(f"{features}: {chances}; {run.total} tiles -> {out}")

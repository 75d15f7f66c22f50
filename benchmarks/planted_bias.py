"""What watching catches: cohorts whose labels are given away by a pen mark or a scanner's light.

    python benchmarks/planted_bias.py --folder DIR [--train 48] [--test 24] [--epochs 12]

Three cohorts of the same slides: as they are; with a stroke of red pen on every tumour slide of
the training side; with a yellowish light on these. Test slides are as they are in all three.
``napari-wsi-xai train`` trains a small encoder and gated ABMIL end to end on each, watches tumour
slides of the training side, and is given the same rules. The validation slides are drawn from the
training side, as anybody would, so that they have the bias too. The last line is JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

from napari_wsi_xai.demo.cohort import SLIDES, make_cohort
from napari_wsi_xai.training import EpochStore
from napari_wsi_xai.training.figures import mean_figures

COHORTS = {"clean": None, "pen": "pen", "tint": "tint"}
RULES = (
    "stop when attention on excluded > 0.4 for 3 epochs",
    "stop when validation auc > 0.9 while localisation < 0.7 for 3 epochs",
)
SETTINGS = ["--set", "end_to_end=true", "--set", "accumulate=4", "--set", "lr=1e-3"]
SETTINGS += ["--set", "class_balance=alternating", "--set", "pooled_weight=1"]
WATCHED = 6


def watched_slides(table: Path) -> list[str]:
    """The first tumour slides of the training side."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tumour = [r["slide"] for r in rows if r["split"] == "train" and r["annotation"]]
    return tumour[:WATCHED]


def train(name: str, table: Path, folder: Path, epochs: int) -> dict:
    """Train by the command line; the result as the command tells it."""
    command = [sys.executable, "-m", "napari_wsi_xai", "train", table, "--json"]
    command += ["--features", table.parent / SLIDES, "--out", folder / f"trained-{name}"]
    command += ["--encoder", "small", "--tile-px", "112", "--tile-mpp", "1.0"]
    command += ["--head", "abmil-gated", "--set", f"epochs={epochs}", *SETTINGS]
    for slide in watched_slides(table):
        command += ["--watch", slide]
    for rule in RULES:
        # Only the cohort with pen marks has excluded regions to judge by.
        command += ["--rule", rule] if name == "pen" or "excluded" not in rule else []
    words = [str(word) for word in command]
    told = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(told)


def figures(result: dict) -> dict[str, float]:
    """Mean figures of the watched slides after the last epoch."""
    store = EpochStore.open(Path(result["folder"]) / "epochs.wsixai.zarr")
    found = mean_figures(list(store.history()[-1].slides.values()))
    return {name: found[name] for name in ("localisation", "excluded", "entropy")}


def row(name: str, result: dict) -> dict[str, object]:
    test = result["metrics"]["test"]["auc"]
    return {
        "cohort": name,
        "epochs": result["epochs"],
        "stopped_because": result["stopped_because"],
        "val_auc": result["history"][-1]["val_auc"],
        **figures(result),
        "test_auc": test["value"],
        "test_interval": [test["low"], test["high"]],
    }


def print_table(rows: list[dict[str, object]], epochs: int) -> None:
    print("\n| cohort | stopped after | validation AUC | localisation | on excluded | test AUC |")
    print("|---|---|---|---|---|---|")
    for one in rows:
        when = f"epoch {one['epochs']} of {epochs}" if one["stopped_because"] else "not stopped"
        share = "-" if one["excluded"] != one["excluded"] else f"{one['excluded']:.2f}"
        low, high = one["test_interval"]
        print(
            f"| {one['cohort']} | {when} | {one['val_auc']:.3f} | {one['localisation']:.3f} | "
            f"{share} | {one['test_auc']:.3f} ({low:.3f}-{high:.3f}) |"
        )
    for one in rows:
        print(f"\n{one['cohort']}: {one['stopped_because'] or 'no rule applied.'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--train", type=int, default=48)
    parser.add_argument("--test", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=12)
    given = parser.parse_args()
    rows = []
    for name, bias in COHORTS.items():
        table = make_cohort(
            given.folder / f"cohort-{name}",
            train=given.train,
            test=given.test,
            bias=bias,
            biased_splits=("train",),
        )
        rows.append(row(name, train(name, table, given.folder, given.epochs)))
    print_table(rows, given.epochs)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()

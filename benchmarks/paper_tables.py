"""The tables of the method papers, from slide labels to figures, on a procedural cohort.

    python benchmarks/paper_tables.py --folder DIR [--full --encoder resnet50] [--jobs 2]

*Heads*, in the form of ZoomMIL's table: every MIL head is trained on slide labels with three
seeds and judged on test slides: area under the ROC curve, accuracy, weighted F1 (mean and standard
deviation over the seeds), and what a slide costs from the file to the decision. *Tiles*, in the
form of MIL-SIL's table: encoders trained end to end on tiles with the slide's label (SIL), on
bags (MIL), and on both.

The cohort is made first: small slides with few and small tumour nests, and nests of look-alike
cells in every slide. The reduced form gives every head the same short training, and tiles half of
the slides; the full one, for a machine with a GPU, trains as the authors do on larger slides.
Everything is seeded, and the same command goes on where it was stopped. The last line is JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from paper_heads import MPPS, TILE_PX, cost, entries, train_head
from paper_tiles import tile_entries, train_tiles

from napari_wsi_xai import build_encoder, load_model
from napari_wsi_xai.demo.cohort import SLIDES, TABLE, make_cohort
from napari_wsi_xai.demo.model import demo_model_path
from napari_wsi_xai.training import classification_metrics, encode_cohort, read_cohort

FIGURES = ("auc", "accuracy", "weighted_f1", "localisation")


def done_or(path: Path, make) -> dict:
    """A finished piece of work from its file, or made now."""
    if not path.is_file():
        row = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".partial").write_text(json.dumps(row))
        path.with_suffix(".partial").replace(path)
    return json.loads(path.read_text())


def made_cohort(arguments) -> Path:
    """The cohort's table; its sides are made in processes of their own first."""
    sides = [(arguments.train, 0), (0, arguments.test)]
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        jobs = [pool.submit(some_slides, arguments, *one) for one in sides if any(one)]
        for job in jobs:
            job.result()
    return some_slides(arguments, arguments.train, arguments.test)


def some_slides(arguments, train: int, test: int) -> Path:
    return make_cohort(
        arguments.folder / "cohort", train=train, test=test, side_px=arguments.side_px
    )


def encoded(arguments):
    """The cohort with descriptors of all magnifications."""
    slides = read_cohort(table_of(arguments), slides_of(arguments))
    features = arguments.folder / "features"
    return encode_cohort(slides, encoder_of(arguments), features, tile_px=TILE_PX, mpp=MPPS)


def encoder_of(arguments):
    if arguments.encoder is None:
        return load_model(demo_model_path()).encoder
    return build_encoder(arguments.encoder, arguments.encoder_weights)


def table_of(arguments) -> Path:
    return arguments.folder / "cohort" / TABLE


def slides_of(arguments) -> Path:
    return arguments.folder / "cohort" / SLIDES


def head_job(arguments, number: int, seed: int) -> dict:
    entry = entries(arguments.k, arguments.full)[number]
    place = arguments.folder / "heads" / f"{entry.name.replace(' ', '-').replace(',', '')}-{seed}"

    def make() -> dict:
        cohort = read_cohort(table_of(arguments), arguments.folder / "features")
        return train_head(entry, cohort, encoder_of(arguments), seed, place, arguments.full)

    return done_or(place.with_suffix(".json"), make)


def tile_job(arguments, number: int, seed: int) -> dict:
    entry = tile_entries(arguments.full)[number]
    place = arguments.folder / "tiles" / f"{entry.encoder}-{entry.method}-{seed}"

    def make() -> dict:
        cohort = read_cohort(table_of(arguments), slides_of(arguments))
        return train_tiles(entry, cohort if arguments.full else half(cohort), seed, place)

    return done_or(place.with_suffix(".json"), make)


def half(cohort):
    """The first half of each side."""
    sides = [[case for case in cohort.cases if case.split == one] for one in ("train", "test")]
    kept = [case for side in sides for case in side[: len(side) // 2]]
    return dataclasses.replace(cohort, cases=tuple(kept))


def run_jobs(arguments) -> tuple[list[dict], list[dict]]:
    """All trainings, as many at a time as there are jobs; the long ones first."""
    os.environ["OMP_NUM_THREADS"] = "1"
    seeds = range(arguments.seeds)
    counts = {
        "heads": len(entries(arguments.k, arguments.full)),
        "tiles": len(tile_entries(arguments.full)),
    }
    heads, tiles = (
        [(n, s) for n in range(counts[name] if name in arguments.tables else 0) for s in seeds]
        for name in ("heads", "tiles")
    )
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        later = [pool.submit(tile_job, arguments, *one) for one in tiles]
        later += [pool.submit(head_job, arguments, *one) for one in heads]
        rows = [told(job.result(), len(later)) for job in later]
    return rows[len(tiles) :], rows[: len(tiles)]


def told(row: dict, total: int) -> dict:
    print(f"  {row['entry']}, seed {row['seed']}: AUC {row['auc']:.3f}", flush=True)
    return row


def spread(values: list[float]) -> str:
    values = [value for value in values if value == value]  # no map where a head looked at nothing
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else "-"
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


def grouped(rows: list[dict]) -> dict[str, list[dict]]:
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["entry"], []).append(row)
    return groups


def ensemble(rows: list[dict], labels: list[int]) -> dict[str, float]:
    """Figures of the mean of the seeds' probabilities."""
    several = [row["probabilities"] for row in rows]
    mean = [
        [statistics.fmean(p) for p in zip(*one, strict=True)] for one in zip(*several, strict=True)
    ]
    figures = classification_metrics(labels, mean, n_boot=0)
    return {name: getattr(figures, name).value for name in FIGURES[:3]}


def print_heads(groups: dict[str, list[dict]], costs: dict[str, dict], together: dict) -> None:
    print("\n| head | AUC | accuracy | weighted F1 | localisation | tiles | GFLOP | s a slide |")
    print("|---|---|---|---|---|---|---|---|")
    for name, rows in groups.items():
        figures = " | ".join(spread([row[figure] for row in rows]) for figure in FIGURES)
        one = costs[name]
        print(
            f"| {name} | {figures} | {one['tiles']:.0f} | {one['gflop']:.2f} | "
            f"{one['seconds']:.2f} |"
        )
    values = " | ".join(f"{together[figure]:.3f}" for figure in FIGURES[:3])
    print(f"| chowder, ensemble of the seeds | {values} | | | | |")


def print_tiles(groups: dict[str, list[dict]]) -> None:
    figures = ("tile_accuracy", "accuracy", "auc", "tile_auc")
    print("\n| encoder, trained as | SIL accuracy | MIL accuracy | slide AUC | tile AUC |")
    print("|---|---|---|---|---|")
    for name, rows in groups.items():
        cells = " | ".join(spread([row[figure] for row in rows]) for figure in figures)
        print(f"| {name} | {cells} |")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--full", action="store_true", help="authors' recipes, larger slides")
    parser.add_argument("--encoder", help="the shipped one unless given")
    parser.add_argument("--encoder-weights")
    parser.add_argument(
        "--tables", nargs="+", choices=("heads", "tiles"), default=["heads", "tiles"]
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int)
    parser.add_argument("--test", type=int)
    parser.add_argument("--side-px", type=int)
    parser.add_argument("--k", type=int, default=3, help="tiles that ZoomMIL opens")
    given = parser.parse_args()
    sizes = {"train": 400, "test": 200, "side_px": 8192} if given.full else {}
    for name, value in ({"train": 120, "test": 60, "side_px": 3072} | sizes).items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    return given


def main() -> None:
    arguments = parse()
    start = time.perf_counter()
    table = made_cohort(arguments)
    made = time.perf_counter() - start
    cohort = encoded(arguments)
    ready = time.perf_counter() - start
    print(f"{len(cohort)} slides made in {made:.0f} s, encoded in {ready - made:.0f} s", flush=True)
    heads, tiles = run_jobs(arguments)
    test = [case for case in cohort.cases if case.split == "test"]
    slides = [slides_of(arguments) / f"{case.slide}.tif" for case in test[:3]]
    groups = grouped(heads)
    costs = {name: cost(Path(rows[0]["model"]), slides) for name, rows in groups.items()}
    if heads:
        print_heads(groups, costs, ensemble(groups["chowder"], [case.label for case in test]))
    if tiles:
        print_tiles(grouped(tiles))
    for row in [*heads, *tiles]:
        row.pop("probabilities", None)
        row.pop("model", None)
    seconds = {"made": made, "encoded": ready - made, "all": time.perf_counter() - start}
    print(f"\n{seconds['all'] / 60:.1f} minutes in all, table {table}")
    print(json.dumps({"heads": heads, "tiles": tiles, "costs": costs, "seconds": seconds}))


if __name__ == "__main__":
    main()

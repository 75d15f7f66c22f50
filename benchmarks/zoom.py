"""What zooming saves: tiles, time and floating-point operations of ZoomMIL against whole bags.

    python benchmarks/zoom.py --folder DIR [--side 60000] [--encoder resnet50] [--rounds 2]

One large demo slide. The exhaustive heads read and encode every tissue tile at the highest
magnification (MSMIL at the middle one, too), then decide. ZoomMIL reads all tissue at the lowest
magnification and goes on into the opened tiles only; *Eff* is the same head that opens fewer
tiles. Time is that of the whole run: planning, tissue, reading, encoding, deciding. Weights are
random, because the cost does not depend on them. FLOPs count a multiplication and an addition as
two. A FLOP counter sees the encoder on one tile, and each head on its bag. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from napari_wsi_xai import build_encoder, build_model, open_slide, score
from napari_wsi_xai.demo import make_demo_slide
from napari_wsi_xai.demo.slide import existing_demo_slide
from napari_wsi_xai.models import build_mil
from napari_wsi_xai.runs.bag import evaluate_bag

MPPS = (8.0, 4.0, 1.0)
"""1.25x, 2.5x and 10x."""

TILE_PX = 256
EXHAUSTIVE = ("abmil-gated", "clam-sb", "dsmil", "transmil", "sparseconvmil")
OPENED = {"zoommil": 12, "zoommil-eff": 1}


def slide_of(folder: Path, side: int) -> Path:
    path = folder / f"demo-{side}.tiff"
    if existing_demo_slide(path, 1, (side, side)) is None:
        make_demo_slide(path, seed=1, shape=(side, side))
    return path


def tile_flops(encoder) -> float:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        encoder.module(torch.zeros(1, 3, TILE_PX, TILE_PX))
    return counter.get_total_flops()


def timed_run(path: Path, model):
    """A run from opening the slide to the decision, and its seconds."""
    start = time.perf_counter()
    with open_slide(path) as slide:
        run = score(slide, model)
        run.compute()
        return run, time.perf_counter() - start


def head_cost(head, run) -> tuple[float, float]:
    """Seconds and FLOPs of a head on the features of a finished run."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        evaluate_bag(head, lambda: run.bag_blocks([]))
        seconds.append(time.perf_counter() - start)
    with FlopCounterMode(display=False) as counter:
        evaluate_bag(head, lambda: run.bag_blocks([]))
    return statistics.median(seconds), counter.get_total_flops()


def list_head_flops(head, tiles: list[int]) -> float:
    """FLOPs of a head over several magnifications that looks at this many tiles of each."""
    bags = [torch.randn(n, head.in_features) for n in tiles]
    look = getattr(head, "forward_opened", head)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        look(bags)
    return counter.get_total_flops()


def exhaustive_rows(path: Path, encoder, per_tile: float) -> list[dict[str, object]]:
    """One encoding of all tissue tiles, every single-magnification head on it; then MSMIL."""
    options = {"tile_px": TILE_PX}
    run, seconds = timed_run(path, build_model(encoder, "mean", mpp=MPPS[-1], **options))
    rows = []
    for name in EXHAUSTIVE:
        arguments = {"downsample": run.grid.stride_level0[0]} if name == "sparseconvmil" else {}
        head_s, head_flops = head_cost(build_mil(name, encoder.dim, 2, **arguments), run)
        rows.append(row(name, run.total, per_tile, seconds + head_s, head_flops, head_s))
    model = build_model(encoder, "msmil", mpp=MPPS[1:], **options)
    both, seconds = timed_run(path, model)
    tiles = [level.total for level in both.levels]
    rows.append(row("msmil", sum(tiles), per_tile, seconds, list_head_flops(model.mil, tiles)))
    return rows


def zoom_rows(path: Path, encoder, per_tile: float) -> list[dict[str, object]]:
    rows = []
    for name, k in OPENED.items():
        model = build_model(encoder, "zoommil", mpp=MPPS, tile_px=TILE_PX, k_sample=k)
        run, seconds = timed_run(path, model)
        tiles = [level.total for level in run.levels]
        found = row(name, sum(tiles), per_tile, seconds, list_head_flops(model.mil, tiles))
        rows.append(found | {"tiles_each": tiles, "k": k})
    return rows


def row(name, tiles, per_tile, seconds, head_flops, head_s=None) -> dict[str, object]:
    return {
        "head": name,
        "tiles": tiles,
        "tflop": (tiles * per_tile + head_flops) / 1e12,
        "head_gflop": head_flops / 1e9,
        "seconds": seconds,
        "head_s": head_s,
    }


def summary(rounds: list[list[dict[str, object]]]) -> list[dict[str, object]]:
    """Medians over the rounds, and what each method saves against gated ABMIL in its round."""
    table = []
    for number, first in enumerate(rounds[0]):
        every = [one[number] for one in rounds]
        seconds = [one["seconds"] for one in every]
        faster = [one[0]["seconds"] / one[number]["seconds"] for one in rounds]
        table.append(
            first
            | {
                "seconds": round(statistics.median(seconds), 1),
                "spread": [round(min(seconds), 1), round(max(seconds), 1)],
                "less_work": round(rounds[0][0]["tflop"] / first["tflop"], 1),
                "fewer_tiles": round(rounds[0][0]["tiles"] / first["tiles"], 1),
                "faster": round(statistics.median(faster), 1),
            }
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--side", type=int, default=60_000)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    path = slide_of(arguments.folder, arguments.side)
    encoder = build_encoder(arguments.encoder)
    per_tile = tile_flops(encoder)
    rounds = [
        exhaustive_rows(path, encoder, per_tile) + zoom_rows(path, encoder, per_tile)
        for _ in range(arguments.rounds)
    ]
    table = summary(rounds)
    print("| head | tiles | TFLOP | less work | seconds, median (min-max) | faster |")
    print("|---|---|---|---|---|---|")
    for one in table:
        low, high = one["spread"]
        print(
            f"| {one['head']} | {one['tiles']} | {one['tflop']:.2f} | {one['less_work']} x | "
            f"{one['seconds']} ({low}-{high}) | {one['faster']} x |"
        )
    print(json.dumps({"encoder": arguments.encoder, "tile_gflop": per_tile / 1e9, "rows": table}))


if __name__ == "__main__":
    main()

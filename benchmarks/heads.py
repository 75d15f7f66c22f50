"""Seconds and peak memory of every MIL head over one large bag.

    python benchmarks/heads.py [--tiles 100000] [--features 1024] [--repeats 3] [--heads NAME ...]

Each head runs in a process of its own, in inference mode, on one bag of seeded random descriptors.
*limit* is the time that the head's multiplications would take at the rate of PyTorch's own large
matrix product, measured in the same process. Memory is the process's peak resident size; *above
the bag* leaves out what was there before the head was made. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from napari_wsi_xai.models import MIL_ARCHITECTURES, build_mil

GRID_COLUMNS = 400
TILE_LEVEL0 = 448
PRODUCT = 2048


def resident_mib(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def bag_for(name: str, tiles: int, features: int):
    """What a head takes: one bag and its places, or a list of bags, coarse to fine."""
    generator = torch.Generator().manual_seed(0)
    sizes = {
        "zoommil": tuple(tiles // 64 * ratio for ratio in (1, 4, 64)),
        "msmil": (tiles // 5, tiles * 4 // 5),
    }
    if name in sizes:
        return [torch.randn(n, features, generator=generator) for n in sizes[name]], None
    index = torch.arange(tiles)
    coords = torch.stack([index // GRID_COLUMNS, index % GRID_COLUMNS], dim=1) * TILE_LEVEL0
    return torch.randn(tiles, features, generator=generator), coords


def options_of(name: str) -> dict[str, object]:
    """Sizes of the published heads where they are not the default."""
    return {"sparseconvmil": {"downsample": TILE_LEVEL0}}.get(name, {})


def product_gflops() -> float:
    """GFLOP/s of a large float32 matrix product."""
    a, b = torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * PRODUCT**3 / best / 1e9


def gflop(head, bag, coords) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        head(bag, coords)
    return counter.get_total_flops() / 1e9


def measure(name: str, tiles: int, features: int, repeats: int) -> dict[str, object]:
    """One head, in this process."""
    bag, coords = bag_for(name, tiles, features)
    before = resident_mib("VmRSS")
    torch.manual_seed(0)
    head = build_mil(name, features, 2, **options_of(name))
    seconds = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            head(bag, coords)
            seconds.append(time.perf_counter() - start)
        peak = resident_mib("VmHWM")
        work = gflop(head, bag, coords)
    rate = product_gflops()
    return {
        "head": name,
        "seconds": round(statistics.median(seconds[1:]), 3),
        "spread": [round(min(seconds[1:]), 3), round(max(seconds[1:]), 3)],
        "gflop": round(work, 2),
        "limit_s": round(work / rate, 3),
        "product_gflops": round(rate, 1),
        "peak_mib": round(peak),
        "above_bag_mib": round(peak - before),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--heads", nargs="*", default=list(MIL_ARCHITECTURES))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        sizes = (arguments.tiles, arguments.features, arguments.repeats)
        print(json.dumps(measure(arguments.one, *sizes)))
        return
    options = [f"--{name}={getattr(arguments, name)}" for name in ("tiles", "features", "repeats")]
    rows = []
    print("| head | seconds, median (min-max) | GFLOP | limit | peak memory | above the bag |")
    print("|---|---|---|---|---|---|")
    for name in arguments.heads:
        command = [sys.executable, __file__, "--one", name, *options]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
        row = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        low, high = row["spread"]
        print(
            f"| {name} | {row['seconds']:.2f} ({low:.2f}-{high:.2f}) | {row['gflop']:.1f} | "
            f"{row['limit_s']:.2f} s | {row['peak_mib']} MiB | {row['above_bag_mib']} MiB |",
            flush=True,
        )
    print(json.dumps({"tiles": arguments.tiles, "features": arguments.features, "rows": rows}))


if __name__ == "__main__":
    main()

"""Tiles per second of every engine and precision, interleaved in one run.

    python benchmarks/engines.py [--network resnet50] [--tiles 32] [--rounds 5]

Beside the rate stands the share of the processor's peak. With gcc at hand the peak is that of the
registers: a loop of independent fused multiply-adds (and bfloat16 dot products where there are
any) on as many threads as there are processors, measured in the same rounds. Without gcc it is
PyTorch's own large matrix product, which is lower, and the output says so.

On a shared machine the rate by wall clock says little; the second one divides by the processor
time that the process really got. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
from register_peak import GFLOP, PROCESSORS, register_loops

from napari_wsi_xai.errors import MissingExtraError
from napari_wsi_xai.models import build_encoder


def gflop_per_tile(encoder, size: int) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        encoder.module(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() / 1e9


def plain_loop(encoder, tiles):
    """What a short script does: eager PyTorch, one batch, float32."""
    with torch.inference_mode():
        return encoder.module(encoder.to_input(tiles).contiguous()).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--tiles", type=int, default=32)
    parser.add_argument("--tile-px", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    encoder = build_encoder(arguments.network)
    shape = (arguments.tiles, arguments.tile_px, arguments.tile_px, 3)
    tiles = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    work: dict[str, Callable[[], object]] = {"plain eager": lambda: plain_loop(encoder, tiles)}
    for engine in ("torch", "openvino"):
        for precision in ("float32", "bfloat16"):
            try:
                ready = encoder.prepare(precision, "cpu", engine)
            except MissingExtraError as error:
                print(error)
                continue
            work[f"{engine} {precision}"] = lambda ready=ready: ready.encode(tiles)
    peaks = register_loops()
    wall, cpu = measure({**work, **peaks}, arguments.rounds)
    report(arguments, encoder, wall, cpu, list(peaks))


def measure(work, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Shortest wall-clock and processor seconds of each, over interleaved rounds."""
    wall, cpu = dict.fromkeys(work, np.inf), dict.fromkeys(work, np.inf)
    for function in work.values():
        function()
    for _ in range(rounds):
        for name, function in work.items():
            before, used = time.perf_counter(), time.process_time()
            function()
            wall[name] = min(wall[name], time.perf_counter() - before)
            cpu[name] = min(cpu[name], (time.process_time() - used) / PROCESSORS)
    return wall, cpu


def gemm_gflops() -> float:
    a = torch.randn(1536, 1536)
    seconds = measure({"gemm": lambda: a @ a}, 5)[1]["gemm"]
    return 2 * 1536**3 / 1e9 / seconds


def report(arguments, encoder, wall, cpu, loops: list[str]) -> None:
    per_loop = {name: PROCESSORS * GFLOP[name] / cpu[name] for name in loops}
    peak32 = per_loop.get("fma_loop") or gemm_gflops()
    peak16 = per_loop.get("bf16_loop")
    kind = "register loop" if "fma_loop" in per_loop else "PyTorch matrix product (a lower bound)"
    gflop = gflop_per_tile(encoder, arguments.tile_px)
    print(
        f"{arguments.network}, {arguments.tile_px} px, {gflop:.2f} GFLOP a tile; peak ({kind}): "
        f"float32 {peak32:.0f} GFLOP/s" + (f", bfloat16 {peak16:.0f} GFLOP/s" if peak16 else "")
    )
    results = {}
    for name in (name for name in wall if name not in loops):
        rate = arguments.tiles / cpu[name]
        peak = peak16 if "bfloat16" in name and peak16 else peak32
        results[name] = {
            "tiles_per_s_wall": round(arguments.tiles / wall[name], 1),
            "tiles_per_s_processor": round(rate, 1),
            "times_plain": round(cpu["plain eager"] / cpu[name], 2),
            "share_of_peak": round(rate * gflop / peak, 3),
        }
        print(
            f"{name:20s} {arguments.tiles / wall[name]:7.1f} tiles/s by the clock "
            f"{rate:7.1f} by processor time  {results[name]['times_plain']:5.2f} x plain  "
            f"{100 * results[name]['share_of_peak']:5.1f} % of peak"
        )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "network": arguments.network,
                "processors": PROCESSORS,
                "peak_gflops": {"float32": round(peak32), "bfloat16": round(peak16 or 0)},
                "peak_from": kind,
                "engines": results,
                "peak_memory_mib": round(memory),
            }
        )
    )


if __name__ == "__main__":
    main()

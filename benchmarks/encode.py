"""The whole pipeline against a plain PyTorch loop: tiles a second, memory, share of the peak.

    python benchmarks/encode.py [--repeats 3] [--encoder resnet50] [--memory] [--folder DIR]

All jobs run in turn, each in its own process, ``repeats`` times: with the C library's allocator
as users have it, then with one that keeps freed memory (environment variables). ``--memory``
adds the 60k x 60k slide. Prints a table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
GFLOP_PER_TILE = {"resnet50": 8.18, "resnet18": 3.63}
"""Two per multiply-add, 224 px input."""

ALLOCATORS = {
    "default": {},
    "tuned": {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"},
}
ENCODING = ("plain", "float32", "bfloat16")


def run_job(job: str, slide: Path, encoder: str, allocator: str) -> dict:
    out = tempfile.mkdtemp(prefix="wsixai-encode-")
    try:
        command = [sys.executable, str(HERE / "encode_jobs.py"), job, str(slide), out, encoder]
        done = subprocess.run(
            command,
            env={**os.environ, **ALLOCATORS[allocator]},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(slide: Path, encoder: str, repeats: int) -> dict:
    """Every job under both allocators, interleaved."""
    runs: dict[tuple[str, str], list[dict]] = {}
    for _ in range(repeats):
        for allocator in ALLOCATORS:
            for job in ENCODING:
                result = run_job(job, slide, encoder, allocator)
                runs.setdefault((job, allocator), []).append(result)
                print(f"{allocator} {result}", file=sys.stderr)
        for job in ("read-openslide", "read-package"):
            runs.setdefault((job, "default"), []).append(run_job(job, slide, encoder, "default"))
    return runs


def summarise(runs: dict, peak: dict, encoder: str) -> list[dict]:
    rows = []
    for (job, allocator), results in runs.items():
        rates = [result["tiles_per_s"] for result in results]
        row = {
            "job": job,
            "allocator": allocator,
            "tiles": results[0]["tiles"],
            "tiles_per_s": statistics.median(rates),
            "spread": [min(rates), max(rates)],
            "peak_mib": max(result["peak_mib"] for result in results),
        }
        if job in ENCODING:
            plain = [result["tiles_per_s"] for result in runs["plain", allocator]]
            ratios = [rate / base for rate, base in zip(rates, plain, strict=True)]
            row["against_plain"] = round(statistics.median(ratios), 2)
            limit = peak["bfloat16" if job == "bfloat16" else "float32"]
            flops = row["tiles_per_s"] * GFLOP_PER_TILE.get(encoder, 0)
            row["share_of_peak"] = round(flops / limit, 3) if limit and flops else None
            row["note"] = results[0].get("note", "")
        rows.append(row)
    return rows


def print_table(rows: list[dict]) -> None:
    print("| job | allocator | tiles/s (median, min-max) | against plain | of peak | peak MiB |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        low, high = row["spread"]
        ratio = f"{row['against_plain']:.2f} x" if "against_plain" in row else ""
        share = f"{row['share_of_peak']:.0%}" if row.get("share_of_peak") else ""
        print(
            f"| {row['job']} | {row['allocator']} | {row['tiles_per_s']:.1f} ({low:.1f}-{high:.1f})"
            f" | {ratio} | {share} | {row['peak_mib']} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "wsixai-bench")
    parser.add_argument("--memory", action="store_true", help="only memory: 10k against 60k")
    arguments = parser.parse_args()
    from register_peak import register_peak

    from slides import demo_slide, mosaic_slide

    arguments.folder.mkdir(parents=True, exist_ok=True)
    slide = demo_slide(arguments.folder)
    if arguments.memory:
        big = mosaic_slide(slide, arguments.folder / "demo-60k.tiff", 6)
        small, large = (run_job("bfloat16", s, arguments.encoder, "default") for s in (slide, big))
        result = {"10k": small, "60k": large, "ratio": large["peak_mib"] / small["peak_mib"]}
        print("| slide | tiles | tiles/s | peak MiB |\n|---|---|---|---|")
        for name, run in (("10k", small), ("60k", large)):
            print(f"| {name} | {run['tiles']} | {run['tiles_per_s']} | {run['peak_mib']} |")
    else:
        peak = register_peak()
        rows = summarise(
            measure(slide, arguments.encoder, arguments.repeats), peak, arguments.encoder
        )
        print_table(rows)
        result = {"register_peak_gflops": peak, "rows": rows}
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(json.dumps({"date": date.today().isoformat(), "machine": machine, **result}))


if __name__ == "__main__":
    main()

"""What a processor's registers allow: independent multiply-adds that never touch memory."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["GFLOP", "PROCESSORS", "register_loops", "register_peak"]

PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

REGISTER_LOOPS = r"""
#include <immintrin.h>
#define N 12
float fma_loop(long n) {
    __m512 a[N], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-3f);
    for (int i = 0; i < N; i++) a[i] = _mm512_set1_ps(i);
    for (long k = 0; k < n; k++)
        for (int i = 0; i < N; i++) a[i] = _mm512_fmadd_ps(a[i], x, y);
    float s = 0;
    for (int i = 0; i < N; i++) s += _mm512_reduce_add_ps(a[i]);
    return s;
}
#ifdef __AVX512BF16__
float bf16_loop(long n) {
    __m512 a[N];
    __m512bh x = (__m512bh)_mm512_set1_epi16(0x3c00), y = (__m512bh)_mm512_set1_epi16(0x3c01);
    for (int i = 0; i < N; i++) a[i] = _mm512_set1_ps(i);
    for (long k = 0; k < n; k++)
        for (int i = 0; i < N; i++) a[i] = _mm512_dpbf16_ps(a[i], x, y);
    float s = 0;
    for (int i = 0; i < N; i++) s += _mm512_reduce_add_ps(a[i]);
    return s;
}
#endif
"""
STEPS = 20_000_000
GFLOP = {"fma_loop": STEPS * 12 * 32 / 1e9, "bf16_loop": STEPS * 12 * 64 / 1e9}


def register_loops() -> dict[str, Callable[[], None]]:
    """Functions that do nothing but arithmetic in registers, on every processor."""
    if shutil.which("gcc") is None:
        return {}
    folder = Path(tempfile.mkdtemp())
    source, library = folder / "peak.c", folder / "peak.so"
    source.write_text(REGISTER_LOOPS)
    command = ["gcc", "-O2", "-march=native", "-funroll-loops", "-shared", "-fPIC"]
    built = subprocess.run([*command, str(source), "-o", str(library)], capture_output=True)
    if built.returncode:
        return {}
    loaded = ctypes.CDLL(str(library))
    shutil.rmtree(folder)
    pool = ThreadPoolExecutor(PROCESSORS)

    def on_all(function: Callable[[int], float]) -> Callable[[], None]:
        return lambda: list(pool.map(function, [STEPS] * PROCESSORS)) and None

    found = {}
    for name in GFLOP:
        if hasattr(loaded, name):
            function = getattr(loaded, name)
            function.argtypes, function.restype = [ctypes.c_long], ctypes.c_float
            found[name] = on_all(function)
    return found


def register_peak(rounds: int = 5) -> dict[str, float]:
    """Best GFLOP/s of all processors together in float32 and bfloat16; 0 where not measured."""
    best = {"float32": 0.0, "bfloat16": 0.0}
    for name, loop in register_loops().items():
        for _ in range(rounds):
            start = time.perf_counter()
            loop()
            rate = GFLOP[name] * PROCESSORS / (time.perf_counter() - start)
            kind = "float32" if name == "fma_loop" else "bfloat16"
            best[kind] = max(best[kind], rate)
    return best

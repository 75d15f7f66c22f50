from __future__ import annotations

import threading
import time

import pytest

from napari_wsi_xai.tiles import prefetch


def test_order_is_kept_whatever_takes_longer():
    def work(n: int) -> int:
        time.sleep(0.02 if n % 3 == 0 else 0)
        return n * n

    assert list(prefetch(work, range(20), threads=4, ahead=3)) == [n * n for n in range(20)]


def test_never_further_ahead_than_allowed():
    started: list[int] = []
    lock = threading.Lock()

    def work(n: int) -> int:
        with lock:
            started.append(n)
        return n

    for done, n in enumerate(prefetch(work, range(50), threads=4, ahead=3)):
        assert n == done
        assert max(started) <= n + 3


def test_error_comes_in_its_turn():
    def work(n: int) -> int:
        if n == 3:
            raise ValueError("three")
        return n

    results = prefetch(work, range(6))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_closing_stops_the_work():
    begun: list[int] = []
    results = prefetch(lambda n: begun.append(n) or n, range(1000), ahead=2)
    next(results)
    results.close()
    assert len(begun) < 10

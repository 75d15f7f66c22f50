"""Work ahead in threads while the caller is busy with earlier results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["prefetch"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int = 2, ahead: int = 2
) -> Iterator[Result]:
    """Yield ``work(item)`` in the order of ``items``, computed in threads, at most ``ahead`` early.

    ``items`` is drawn from only when there is room, in the caller's thread, so an iterator that
    changes its mind about what comes next is obeyed after ``ahead`` results. An exception of
    ``work`` is raised where its result would have come. Closing the generator waits for the
    work under way and starts no more.
    """
    source = iter(items)
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="tile-reader") as pool:
        try:
            for item in source:
                pending.append(pool.submit(work, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

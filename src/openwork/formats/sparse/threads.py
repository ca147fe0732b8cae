"""Tensors in threads, a few at a time: what numpy and zstd do holds no lock of Python's."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

_MOST = 8


def in_threads(
    function: Callable[[str, A], B], values: Mapping[str, A], threads: int | None
) -> Iterator[tuple[str, B]]:
    """Names with what ``function`` makes of each value, in their order.

    No more results than there are threads wait for the caller, so memory is bounded.

    Args:
        function: Takes name and value.
        values: By name.
        threads: How many work at a time, by default as many as there are processors, at most 8.

    Raises:
        ValueError: If there is no thread; and whatever ``function`` raises.
    """
    count = min(_MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    count = count if threads is None else threads
    if type(count) is not int or count < 1:
        raise ValueError(f"threads must be a whole number of at least 1, got {threads!r}; leave it out for the default")
    if count == 1:
        yield from ((name, function(name, value)) for name, value in values.items())
        return
    waiting: deque[tuple[str, Future[B]]] = deque()
    left = iter(values.items())
    with ThreadPoolExecutor(count) as pool:
        try:
            waiting.extend((name, pool.submit(function, name, value)) for name, value in islice(left, count))
            while waiting:
                name, future = waiting.popleft()
                result = future.result()
                waiting.extend((n, pool.submit(function, n, v)) for n, v in islice(left, 1))
                yield name, result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

"""Three stages of one item after another, overlapped: one is read ahead and one written while one is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
Written = TypeVar("Written")


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    compute: Callable[[Read], Computed],
    write: Callable[[Computed], Written],
    *,
    workers: int = 1,
    prepare: Callable[[], None] = lambda: None,
) -> Generator[Written, None, None]:
    """Give what `write` returns of each item, in their order.

    `compute` runs in the caller's thread, one item at a time; the others in threads beside it. At most `workers` items
    that were read wait to be computed, and as many that were computed to be written. An error of any stage stops all:
    what is to be isolated, the stages catch.

    Args:
        items: Taken one by one, as there is room.
        read: First stage.
        compute: Second stage.
        write: Third stage.
        workers: Threads that read, and as many that write; 0: one stage after another, in the caller's thread.
        prepare: Called once in each thread before its work.
    """
    if not workers:
        yield from (write(compute(read(item))) for item in items)
        return
    waiting = iter(items)
    ahead: deque[Future[Read]] = deque()
    behind: deque[Future[Written]] = deque()
    with ExitStack() as stack:
        readers, writers = (ThreadPoolExecutor(workers, f"medfuse-{name}", prepare) for name in ("read", "write"))
        for pool in (readers, writers):
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        ahead.extend(readers.submit(read, item) for item in islice(waiting, workers))
        while ahead:
            taken = ahead.popleft().result()
            ahead.extend(readers.submit(read, item) for item in islice(waiting, 1))
            computed = compute(taken)
            del taken
            while len(behind) >= workers:
                yield behind.popleft().result()
            behind.append(writers.submit(write, computed))
            del computed
        while behind:
            yield behind.popleft().result()

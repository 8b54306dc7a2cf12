"""Parts of a work on a CPU side by side: each by a thread of its own, among which torch's threads are shared out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

Item = TypeVar("Item")
Done = TypeVar("Done")


def side_by_side(work: Callable[[Item], Done], items: Sequence[Item], *, most: int | None = None) -> Iterator[Done]:
    """Give what `work` returns of each item, in their order.

    Operations follow one another, and small ones keep one core alone busy: two cores get through two items sooner than
    through one and then the other. With no more of torch's threads than items side by side each computes alone, and a
    result does not depend on their number. Where gradients are tracked, or autocasting is on, which are a thread's own,
    all is done in the caller's thread.

    Args:
        work: Computes one item on the CPU; safe to be called by several threads.
        items: What it is given.
        most: Items side by side, at most, as each takes memory; as many as there are threads where None.
    """
    threads = torch.get_num_threads()
    at_once = min(threads, len(items), most or threads)
    if at_once < 2 or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        yield from map(work, items)
        return
    share, inference = max(1, threads // at_once), torch.is_inference_mode_enabled()

    def run(item: Item) -> Done:
        with torch.inference_mode(inference), torch.no_grad():
            return work(item)

    pool = ThreadPoolExecutor(at_once, "medfuse-part", partial(torch.set_num_threads, share))
    torch.set_num_threads(share)  # here, too: a thread that waits for more of the caller's work keeps a core busy
    try:
        yield from pool.map(run, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)

"""Images of a volume on a CPU, side by side: one a thread, and one thread an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

_PIXELS = 2**19
"""Of all images that are computed side by side, at most: each takes memory, 0.1 GB for 2**17."""

Item = TypeVar("Item")
Done = TypeVar("Done")


def side_by_side(work: Callable[[Item], Done], items: Sequence[Item], *, pixels: int) -> Iterator[Done]:
    """Give what `work` returns of each item, in their order.

    Layers are computed one after another, and some keep one core alone busy: two cores get through two images sooner
    than through one and then the other. torch's threads are shared out, so that no image waits for another's; with no
    more of them than images side by side, a result does not depend on their number. Where gradients are tracked, or
    autocasting is on, which are a thread's own, all is done in the caller's thread.

    Args:
        work: Computes one image; safe to be called by several threads.
        items: What it is given.
        pixels: Number of pixels of an image.
    """
    threads = torch.get_num_threads()
    at_once = min(threads, len(items), max(1, _PIXELS // pixels))
    if at_once < 2 or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        yield from map(work, items)
        return
    share, inference = max(1, threads // at_once), torch.is_inference_mode_enabled()

    def run(item: Item) -> Done:
        with torch.inference_mode(inference), torch.no_grad():
            return work(item)

    pool = ThreadPoolExecutor(at_once, "medfuse-image", partial(torch.set_num_threads, share))
    try:
        yield from pool.map(run, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # of products of matrices, which have one number for all threads

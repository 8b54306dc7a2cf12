"""A network evaluated window by window: large images in little memory, with nothing of it to be seen in the result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor


def evaluate(network: Any, parts: Sequence[Tensor], condition: Tensor, *, limit: int | None = None) -> Tensor:
    """Run a network on an image of any size.

    What is beyond the limit is cut into windows that overlap by the reach of the network, and of each output only what
    no cut can reach is kept: the result is that of the whole image. A network that does not state its reach, as
    `medfuse.diffusion.FusionUNet` does, is run on the whole image.

    Args:
        network: `(image [B, C, H, W], condition [B, F]) -> [B, D, H, W]`; a `FusionModel` or its TorchScript export.
        parts: The channels of the image, in tensors **[B, c, H, W]**.
        condition: **[B, F]**.
        limit: Number of pixels, B x H x W, to evaluate at once; None for no limit. The windows of an image that is
            larger by itself have half as many, for it takes room too. A window is never smaller than twice the reach
            and a bit, whatever the limit.

    Returns:
        **[B, D, H, W]**.
    """
    batch, _, height, width = parts[0].shape
    denoiser = getattr(network, "denoiser", None)
    reach, multiple = getattr(denoiser, "reach", None), getattr(denoiser, "multiple", None)
    if limit is None or reach is None or multiple is None or batch * height * width <= limit:
        return network(torch.cat(list(parts), 1), condition)
    limit = limit if height * width <= limit else limit // 2
    rows = min(height, max(1, limit // min(width, isqrt(limit))))
    columns = min(width, max(1, limit // rows))
    together = max(1, limit // (rows * columns))
    output = torch.empty(0)
    for y, x, first in product(
        _windows(height, rows, reach, multiple), _windows(width, columns, reach, multiple), range(0, batch, together)
    ):
        some = slice(first, first + together)
        result = network(torch.cat([p[some, :, y.seen, x.seen] for p in parts], 1), condition[some])
        if not output.numel():
            output = result.new_empty(batch, result.shape[1], height, width)
        output[some, :, y.kept, x.kept] = result[..., y.within, x.within]
    return output


class _Window(NamedTuple):
    """One axis of a window: what the network sees, what is kept of it, and where that lies within the window."""

    seen: slice
    kept: slice
    within: slice


def _windows(size: int, window: int, reach: int, multiple: int) -> Iterator[_Window]:
    """Cut an axis into windows of about equal size, which begin at multiples of what the network folds together."""
    halo = -(-reach // multiple) * multiple
    count = 1 if size <= window else -(-size // max(multiple, (window - 2 * halo) // multiple * multiple))
    step = -(-size // (count * multiple)) * multiple
    for first in range(0, size, step):
        last = min(first + step, size)
        begin, end = max(0, first - halo), min(size, last + halo)
        yield _Window(slice(begin, end), slice(first, last), slice(first - begin, last - begin))

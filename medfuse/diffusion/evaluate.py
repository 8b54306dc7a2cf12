"""How a 2-D network is run on images and volumes of any size: its precision, windows, views and slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medfuse.errors import DegradationError, GeometryError

_WINDOW = 2**19  # pixels of a window of an image that is cut, at most: twice as many need 0.3 GB more
_TOGETHER = 3 * 2**18  # pixels of images side by side, at most: more are no faster, and windows save memory
_VIEWS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Axes along which an image is mirrored for each view of the network."""


@dataclass(frozen=True)
class Evaluator:
    """How a network for images is run on features **[B, C, H, W]** or **[B, C, X, Y, Z]**.

    Attributes:
        autocast: Dtype of the network's arithmetic on its device; None for that of its weights.
        limit: Number of pixels, B x H x W, on which it runs at once, see `in_windows`; None for no limit.
        views: Number of mirrored views, 1 to 4, of which its answers are averaged: test-time augmentation. The nature
            of an image knows no left and right, the network hardly. The time grows linearly.
        plane: The two spatial axes of a volume that make the images; each slice across them is one.
    """

    autocast: torch.dtype | None = None
    limit: int | None = None
    views: int = 1
    plane: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            DegradationError: An impossible number of views, or a limit below 1.
            GeometryError: A plane that is not two axes of three.
        """
        if not 1 <= self.views <= len(_VIEWS):
            raise DegradationError(f"the number of views must be 1 to {len(_VIEWS)}, got {self.views}.")
        if self.limit is not None and self.limit < 1:
            raise DegradationError(f"the limit must be a number of pixels, 1 or more, got {self.limit}; raise it.")
        if not (len(set(self.plane)) == 2 and set(self.plane) <= {0, 1, 2}):
            raise GeometryError(f"the plane must be two of the axes 0, 1 and 2, got {self.plane}.")

    def __call__(self, network: Any, features: Sequence[Tensor], condition: Tensor) -> Tensor:
        """Return the network's answer, **[B, D, *spatial]**, for features **[B, c, *spatial]** and **[B, F]**."""
        if features[0].ndim == 5:
            return self._sliced(network, features, condition)
        device, dtype = condition.device.type, self.autocast or torch.bfloat16
        with torch.autocast(device, dtype, enabled=self.autocast is not None):
            first, *others = (self._viewed(network, features, condition, axes) for axes in _VIEWS[: self.views])
        return torch.stack([v.to(features[0]) for v in (first, *others)]).mean(0) if others else first

    def _viewed(self, network: Any, features: Sequence[Tensor], condition: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Run the network on the features mirrored along some axes; return its answer mirrored back."""
        if not axes:
            return in_windows(network, features, condition, limit=self.limit, dtype=self.autocast)
        turned = [v.flip(axes) for v in features]
        return in_windows(network, turned, condition, limit=self.limit, dtype=self.autocast).flip(axes)

    def _sliced(self, network: Any, features: Sequence[Tensor], condition: Tensor) -> Tensor:
        """Run the network on the slices of volumes, each volume's with its own condition."""
        (across,) = {0, 1, 2} - set(self.plane)
        turned = self.plane[0] > self.plane[1]
        batch, count = len(features[0]), features[0].shape[across + 2]
        slices = [v.movedim(across + 2, 1).flatten(0, 1) for v in features]
        answer = self(network, [v.mT if turned else v for v in slices], condition.repeat_interleave(count, 0))
        return torch.unflatten(answer.mT if turned else answer, 0, (batch, count)).movedim(1, across + 2)


def in_windows(
    network: Any,
    parts: Sequence[Tensor],
    condition: Tensor,
    *,
    limit: int | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Run a network on an image of any size: overcomplete tiling with a halo.

    What is beyond the limit is cut into windows that overlap by the reach of the network, and of each output only what
    no cut can reach is kept: the result is that of the whole image. A network that does not state its reach, as
    `medfuse.diffusion.FusionUNet` does, is run on the whole image.

    Args:
        network: `(image [B, C, H, W], condition [B, F]) -> [B, D, H, W]`; a `FusionModel` or its TorchScript export.
        parts: The channels of the image, in tensors **[B, c, H, W]**.
        condition: **[B, F]**.
        limit: Number of pixels, B x H x W, to evaluate at once; None for no limit. The windows of an image that is
            larger by itself have half as many, at most 2**19, for it takes room too. Images side by side have fewer
            where the limit is large. Whatever the limit, a side of a window that cuts is at least
            `2 halo + multiple`, with `halo = ceil(reach / multiple) multiple`.
        dtype: In which the network takes its image, as its first layer would make it of it anyway; None: as it is.

    Returns:
        **[B, D, H, W]**.
    """
    batch, _, height, width = parts[0].shape
    denoiser = getattr(network, "denoiser", None)
    reach, multiple = getattr(denoiser, "reach", None), getattr(denoiser, "multiple", None)
    if limit is None or reach is None or multiple is None or _fits(batch, height * width, limit):
        whole: Tensor = network(_joined(parts, dtype), condition)
        return whole
    limit = limit if height * width <= limit else min(limit // 2, _WINDOW)
    rows = min(height, max(1, limit // min(width, isqrt(limit))))
    columns = min(width, max(1, limit // rows))
    together = max(1, min(limit, _TOGETHER) // (rows * columns))
    output = torch.empty(0)
    for y, x, first in product(
        _windows(height, rows, reach, multiple), _windows(width, columns, reach, multiple), range(0, batch, together)
    ):
        some = slice(first, first + together)
        result = network(_joined([p[some, :, y.seen, x.seen] for p in parts], dtype), condition[some])
        if not output.numel():
            output = result.new_empty(batch, result.shape[1], height, width)
        output[some, :, y.kept, x.kept] = result[..., y.within, x.within]
    return output


def _joined(parts: Sequence[Tensor], dtype: torch.dtype | None) -> Tensor:
    return torch.cat(list(parts) if dtype is None else [p.to(dtype) for p in parts], 1)


def _fits(batch: int, pixels: int, limit: int) -> bool:
    """Tell whether so many images of so many pixels are evaluated at once."""
    return batch * pixels <= (limit if batch == 1 else min(limit, _TOGETHER))


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

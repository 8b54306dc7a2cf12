"""Bias of the noise: by how much the mean of many observations lies above the noiseless signal, and their variance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.physics.models.source import SourceModel
from medfuse.physics.noise import Noise, clipped_mean, clipped_variance

_AROUND = 5  # px, side of a neighbourhood: all of 25 values are cut at once hardly ever, unless a mask blanked them
_LEAST_SHARE = 1e-3  # of the variance of the noise, that is left of it
_BLOCK = 1 << 20  # values that are looked at together
_PILE = 4  # fewest equal values at the upper end of data that are taken for cut off


@dataclass(frozen=True)
class StoredNoise:
    """Mean and variance of noise as it was stored: biased by itself, or cut off at an end.

    Attributes:
        noises: The noise.
        std: Its std in one image, broadcasts against the data.
        cut: Whether values below 0 were set to 0, of each sample.
        end: The upper end, above which values were set to it, of each sample; infinity where there is none.
        known: Where the data tell, **[B, C, *data]**; elsewhere something else has set all of them to an end.
    """

    noises: Sequence[Noise]
    std: Tensor
    cut: Tensor
    end: Tensor
    known: Tensor

    def __call__(self, signal: Tensor) -> Tensor:
        """Return `E[y] - s` for a noiseless signal s, **[B, C, *data]**."""
        mean = self._mean(signal)
        stored = clipped_mean(mean, self.std)
        all_cut, any_end = self._ends
        if not all_cut:
            stored = torch.where(self.cut, stored, mean)
        if any_end:
            saturated = self.end.isfinite()
            stored -= clipped_mean(mean - torch.where(saturated, self.end, 0.0), self.std) * saturated
        return stored.sub_(signal).mul_(self.known)

    @cached_property
    def _ends(self) -> tuple[bool, bool]:
        """Whether all samples were cut at 0, and any above: asked once, for a device stands still to tell."""
        return bool(self.cut.all()), bool(self.end.isfinite().any())

    def share(self, signal: Tensor) -> Tensor:
        """Return the mean variance of the data over that of the noise as stated, **[B]**, for a noiseless signal.

        Where nothing is known it counts as 1: chi-square then is rather too low.
        """
        means = [part.flatten(1).mean(1) * (part.shape[2] / signal.shape[2]) for part in self._blocks(signal)]
        return torch.stack(means).sum(0).clamp_min(_LEAST_SHARE)

    def shares(self, signal: Tensor) -> Tensor:
        """Return the variance of each datum over that of the noise as stated, of the shape of a noiseless signal.

        Where nothing is known it counts as 1.
        """
        return torch.cat(list(self._blocks(signal)), 2).clamp_min_(_LEAST_SHARE)

    def _blocks(self, signal: Tensor) -> Iterator[Tensor]:
        """Give the shares of one block of rows after another, so that large images take little."""
        count = math.ceil(signal.numel() / _BLOCK)
        for part, known in zip(signal.chunk(count, 2), self.known.chunk(count, 2), strict=True):
            yield self._shares(part, known)

    def _shares(self, signal: Tensor, known: Tensor) -> Tensor:
        exact = sum((noise.scatter(signal) for noise in self.noises), torch.zeros_like(signal))
        stated = sum((noise.variance(signal) for noise in self.noises), torch.zeros_like(signal))
        ratio = exact / stated.clamp_min(torch.finfo(stated.dtype).tiny)
        mean, std = self._mean(signal), self.std * ratio.sqrt().clamp_min(1e-6)
        below = torch.where(self.cut, mean / std, torch.inf)
        left = clipped_variance(below, (self.end - mean) / std)
        return torch.where(known, left * ratio, 1.0)

    def _mean(self, signal: Tensor) -> Tensor:
        return reduce(lambda v, noise: noise.mean(v), self.noises, signal)


def bias_of_noise(model: SourceModel) -> StoredNoise | None:
    """Return mean and variance of the noise as it was stored; None where they are those that are stated.

    There are three cases:

    - Rician noise, which is biased by itself: the moments of `|s + sigma n|`, then those of what is cut off.
    - Gaussian noise that was cut off as the data were stored: below 0, if 0 is exactly their least value, and above an
      upper end u, if one is found, see `upper_end`: the moments of `min(max(s + sigma n, 0), u)`.
    - All else, noise that depends on the signal included: none.

    Where all data of a neighbourhood of 5 px are at one end, something else has blanked or saturated them, a mask or a
    border: nothing is known there, and the bias is 0. Noise of an average was cut in each of the images averaged, with
    their std.

    Args:
        model: Any observation model. It is asked for its data and for the std of its noise.
    """
    noises = [noise for noise, _ in model.degradation.noises]
    if not noises or any(noise.depends_on_signal for noise in noises):
        return None
    y = model.y
    std = model.sigma().flatten(2).amax(2).reshape(-1, y.shape[1], *([1] * (y.ndim - 2)))
    std = std / noises[0].share
    cut, end = y.amin(tuple(range(1, y.ndim)), keepdim=True) == 0, upper_end(y, std)
    if any(noise.biased for noise in noises):
        cut = torch.ones_like(cut)
    saturated = end.isfinite()
    if not bool((cut | saturated).any()):
        return None
    known = (cut & ~_around(y == 0)) | (saturated & ~cut)
    if bool(saturated.any()):
        known &= ~(saturated & _around(y == end))
    return StoredNoise(noises, std, cut, end, known)


def _around(at: Tensor) -> Tensor:
    """Return where all of a neighbourhood is so."""
    some = ~at
    for axis in range(2, at.ndim):  # by shifts, axis by axis; beyond the border there is nothing that is not so
        n = some.shape[axis]
        wide = F.pad(some, [0, 0] * (at.ndim - 1 - axis) + [_AROUND // 2] * 2)
        some = wide.narrow(axis, 0, n)
        for shift in range(1, _AROUND):
            some = some | wide.narrow(axis, shift, n)
    return ~some


def upper_end(y: Tensor, std: Tensor) -> Tensor:
    """Return the upper end at which each sample of noisy data was cut off, **[B, 1, ...]**; infinity where none is.

    Noise that is cut at full range piles up there: what would lie above has one value. So the largest value is the end
    if 4 data or more have it, and more than have the next lower value, and more than lie within half a standard
    deviation of the noise below it; the tail of noise that was not cut thins out towards its end.

    Args:
        y: The data, **[B, C, *data]**.
        std: Std of their noise, broadcasts against `y`.
    """
    axes = tuple(range(1, y.ndim))
    top = y.amax(axes, keepdim=True)
    below = y < top
    pile = (~below).sum(axes, keepdim=True)
    following = torch.where(below, y, -torch.inf).amax(axes, keepdim=True)
    beside = (below & (y > top - 0.5 * std)).sum(axes, keepdim=True)
    found = (pile >= _PILE) & (pile > beside) & (pile > (y == following).sum(axes, keepdim=True))
    return torch.where(found, top, torch.inf)

"""Width of a blur: how much of it the data allow. A blur that is stated too wide would be undone too far, and ring.

The spectra of photographs and of scans fall with the frequency. Where the spectrum of a blurred image, divided by the
power that the blur lets through, rises instead, the blur was narrower than stated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.physics.evidence.slow_waves import LEAST_SIDE
from medfuse.physics.models.source import SourceModel, spread

# The rule, its 2,844 blurs stated right and 474 stated too wide: docs/explanation/method.md, "A blur stated too wide".
_BANDS = 16  # of equal width, up to the Nyquist frequency
_LEAST_RATE = 1 / 32  # along each axis, in units of the Nyquist frequency: what leaks along the axes is of the borders
_MOST = 256  # coefficients along an axis; of more, every so many: for speed, bands stay full
_PRESENT = 2.0  # power over that of the noise from which an image is seen; with less doubt than a rise of e allows
_CONTOURS = (
    5.0  # power of the rounding of a smooth image in a band, at most, over that of white rounding: blurred scans
)
_RISE = 1.0  # log of the rise over at most an octave, on top of a fall with the frequency, that 1 of those blurs showed
_HALVINGS = 7  # a share to within 1 %


def allowed_width(model: SourceModel, excess: Tensor) -> Tensor:
    """Return the share of its stated width up to which the blur of a model agrees with its data, **[B]**, 0..1.

    Args:
        model: Any observation model. Without a Gaussian blur, or under an operator that is not the same everywhere, so
            that it mixes the cosine waves of the data, nothing is known: 1.
        excess: Factor of the variance of its noise, **[B]**, see `medfuse.physics.evidence.noise`.
    """
    part = model.degradation
    if not part.blurred or not model.operator.shift_invariant:
        return model.y.new_ones(len(model.y))
    # what is left of the noise of an average is not white: no more is known than the noise of what was averaged
    noise = model.noises() * spread(excess, model.y) / min([noise.share for noise, _ in part.noises], default=1.0) ** 2
    return allowed_share(
        model.waves(), noise, lambda share: model.gains(part.narrowed(share).operator), rounding=part.floor**2
    )


@torch.no_grad()
def allowed_share(data: Tensor, noise: Tensor, gram: Callable[[Tensor], Tensor], *, rounding: float = 0.0) -> Tensor:
    """Return the share of its stated width up to which a blur agrees with the data, **[B]**, 0..1.

    The power in bands of the radial frequency, less that of the noise and over that which the blur lets through,
    estimates the power spectrum of the image. The highest band that rises above the noise is compared with the least of
    the octave below, two standard deviations being left in doubt. The product of power and frequency seldom grows in
    an image, and hardly ever by a factor of e (docs/explanation/method.md has the measurements). Where it does, the
    width is narrowed until the product does not grow at all.

    Args:
        data: Orthonormal cosine coefficients of the observation, **[B, C, *spatial]**.
        noise: Variance of their noise, of a shape that broadcasts to theirs.
        gram: Gives, for shares **[B]** of the stated width, the power that passes, **[b, 1, *spatial]**.
        rounding: Variance of the rounding of the data. Where nothing else was added to a smooth image, rounding follows
            its contours, and weighs several times as much in low bands as white noise of that variance.

    Returns:
        The share; 1 where nothing is known to the contrary.
    """
    share = data.new_ones(len(data))
    if min(data.shape[2:]) < LEAST_SIDE:
        return share
    steps = [-(-n // _MOST) for n in data.shape[2:]]
    picked = (slice(None), slice(None), *(slice(None, None, step) for step in steps))
    made = _members if data.ndim == 4 else _members.__wrapped__  # of a volume too large to be kept
    members = made(tuple(data.shape[2:]), tuple(steps), data.dtype, data.device)

    def banded(values: Tensor) -> Tensor:
        return values.expand_as(data)[picked].mean(1).flatten(1) @ members

    count = members.sum(0).clamp_min(1)
    noise = banded(noise)
    excess = banded(data.square()) - noise
    threshold = (4 * (2 / count).sqrt()).clamp_min(_PRESENT - 1)
    seen = torch.maximum(threshold * noise, _CONTOURS * rounding * count)
    present = ((excess > seen) & (members.sum(0) > 0)).cumprod(1).bool()
    tiny = torch.finfo(data.dtype).tiny
    rate = (torch.arange(_BANDS - 1, device=data.device, dtype=data.dtype) + 1.5) / _BANDS
    last = (present.sum(1, keepdim=True) - 1).clamp_min(0)
    doubt = (2 * (2 / count).sqrt() * (1 + noise / excess.clamp_min(tiny))).gather(1, last).squeeze(1)

    def rise(share: Tensor) -> Tensor:
        return _rise((excess / banded(gram(share)).clamp_min(tiny) * rate).clamp_min(tiny).log(), last)

    disproved = rise(share) - doubt > _RISE
    if not bool(disproved.any()):
        return share
    low, high = torch.zeros_like(share), share
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        rises = rise(middle) > 0
        low, high = torch.where(rises, low, middle), torch.where(rises, middle, high)
    return torch.where(disproved, low, share)


def _rise(level: Tensor, last: Tensor) -> Tensor:
    """Return by how much the last band is above the least of the octave below it, **[B]**; -inf if there is none.

    Args:
        level: Log of the product of power and frequency, **[B, bands]**.
        last: The last band that rises above the noise as all below it do, **[B, 1]**.
    """
    place = torch.arange(level.shape[1], device=level.device)
    below = (place < last) & (2 * (place + 1) >= last + 1)
    least = torch.where(below, level, torch.inf).amin(1)
    return torch.where(below.any(1), level.gather(1, last).squeeze(1) - least, -torch.inf)


@lru_cache(maxsize=2)
def _members(sizes: tuple[int, ...], steps: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return which band each coefficient belongs to, **[coefficients, bands - 1]**; the lowest band is left out."""
    axes = [torch.arange(0, n, step, device=device) / n for n, step in zip(sizes, steps, strict=True)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    rate = grid.square().sum(0).sqrt()
    band = torch.where(grid.amin(0) < _LEAST_RATE, 0, (rate * _BANDS).long().clamp_max(_BANDS))
    return F.one_hot(band, _BANDS + 1)[:, 1:_BANDS].to(dtype)

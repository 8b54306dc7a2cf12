"""Noise models: how to simulate each, and its variance given the clean signal.

All act on intensities scaled to 0..1, fractions of the source's full range. Parameters are numbers or tensors **[B]**.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from medfuse.errors import DegradationError

_FAR = 12.0  # standard deviations beyond which nothing is cut off; exponentials that underflow take ten times as long


class Noise(ABC):
    """Noise that turns a clean signal into an observation."""

    depends_on_signal = False
    """Whether the variance depends on the signal."""
    biased = False
    """Whether the mean of many observations is not the signal."""
    share = 1.0
    """Std of the noise of a weighted mean over that of each image, `sqrt(sum w_i^2)`, 0..1; 1 for a single image."""

    @abstractmethod
    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw an observation of `x` **[B, C, *spatial]**."""

    @abstractmethod
    def variance(self, x: Tensor) -> Tensor:
        """Return the variance of an observation of `x`, per pixel, of the shape of `x`."""

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean of many observations of `x`, of its shape: `x` itself unless the noise is biased."""
        return x

    def scatter(self, x: Tensor) -> Tensor:
        """Return the exact variance of many observations of `x`, of its shape; `variance` may be a limit."""
        return self.variance(x)


class GaussianNoise(Noise):
    """Additive, independent in each pixel: `y = x + sigma n`."""

    def __init__(self, sigma: float | Sequence[float] | Tensor) -> None:
        self.sigma = _parameter(sigma, "the standard deviation of Gaussian noise")

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw an observation."""
        return x + _column(self.sigma, x) * _normal(x, generator)

    def variance(self, x: Tensor) -> Tensor:
        """Return sigma squared."""
        return _column(self.sigma, x).square().expand(x.shape)


class PoissonNoise(Noise):
    """Counting noise: `y = Poisson(counts x) / counts`, where `counts` are the expected events at full range.

    Raises:
        DegradationError: The counts are not positive.
    """

    depends_on_signal = True

    def __init__(self, counts: float | Sequence[float] | Tensor) -> None:
        self.counts = _parameter(counts, "the counts of Poisson noise")
        if not bool((self.counts > 0).all()):
            raise DegradationError(f"the counts of Poisson noise must be positive, got {counts}.")

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw an observation; negative intensities count as zero."""
        counts = _column(self.counts, x)
        events = torch.poisson((x.clamp_min(0.0) * counts).to(generator.device), generator=generator)
        return events.to(x.device) / counts

    def variance(self, x: Tensor) -> Tensor:
        """Return x / counts."""
        return x.clamp_min(0.0) / _column(self.counts, x)


class RicianNoise(Noise):
    """Magnitude of a complex signal with Gaussian noise in both channels: `y = |x + sigma n1 + i sigma n2|`."""

    biased = True

    def __init__(self, sigma: float | Sequence[float] | Tensor) -> None:
        self.sigma = _parameter(sigma, "the standard deviation of Rician noise")

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw an observation."""
        sigma = _column(self.sigma, x)
        return torch.hypot(x + sigma * _normal(x, generator), sigma * _normal(x, generator))

    def variance(self, x: Tensor) -> Tensor:
        """Return sigma squared, the limit for a signal well above the noise."""
        return _column(self.sigma, x).square().expand(x.shape)

    def mean(self, x: Tensor) -> Tensor:
        """Return `sigma sqrt(pi / 2) L_1/2(-x^2 / 2 sigma^2)`; negative signals count as zero."""
        sigma = _column(self.sigma, x).clamp_min(1e-6)
        z = (x.clamp_min(0.0) / (2.0 * sigma)).square()
        bessel: Tensor = (1.0 + 2.0 * z) * torch.special.i0e(z) + 2.0 * z * torch.special.i1e(z)
        return sigma * math.sqrt(math.pi / 2.0) * bessel

    def scatter(self, x: Tensor) -> Tensor:
        """Return `x^2 + 2 sigma^2` less the mean squared; negative signals count as zero."""
        second = x.clamp_min(0.0).square() + 2.0 * _column(self.sigma, x).square()
        return (second - self.mean(x).square()).clamp_min(0.0)


class AveragedNoise(Noise):
    """Noise of a weighted mean of images of one signal, each stored with such noise of its own: less, the same mean.

    The variance is `share^2` times that of one image; the mean, which matters where noise is biased or was cut at 0, is
    that of one image. Example: luma as the mean of R, G and B, with independent noise in each: `share = 1 / sqrt(3)`,
    0.577.
    """

    def __init__(self, noise: Noise, share: float) -> None:
        """Average.

        Args:
            noise: Noise of each image.
            share: `sqrt(sum w_i^2)` for weights whose sum is 1, in (0, 1].
        """
        self.noise, self.share = noise, share
        self.depends_on_signal, self.biased = noise.depends_on_signal, noise.biased

    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw an observation; its mean and variance are right, its distribution is that of one image."""
        mean = self.mean(x)
        return mean + self.share * (self.noise.sample(x, generator) - mean)

    def variance(self, x: Tensor) -> Tensor:
        """Return the variance of each image, times the share squared."""
        return self.share**2 * self.noise.variance(x)

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean in each image."""
        return self.noise.mean(x)

    def scatter(self, x: Tensor) -> Tensor:
        """Return the exact variance in each image, times the share squared."""
        return self.share**2 * self.noise.scatter(x)


@torch.no_grad()
def clipped_mean(x: Tensor, sigma: Tensor) -> Tensor:
    """Return the mean of `max(x + sigma n, 0)` for normal `n`, `sigma phi(x / sigma) + x Phi(x / sigma)`.

    What is cut at an upper end u, too, has the mean `clipped_mean(x) - clipped_mean(x - u)`, for
    `min(max(v, 0), u) = max(v, 0) - max(v - u, 0)`. No gradient is tracked.
    """
    t = (x / sigma.clamp_min(1e-6)).clamp_(-_FAR, _FAR)
    density = t.square().mul_(-0.5).exp_().mul_(sigma / math.sqrt(2.0 * math.pi))
    share = t.mul_(-math.sqrt(0.5)).erfc_().mul_(0.5)  # the part of the noise that leaves the sum above 0
    return density.addcmul_(x, share).clamp_min_(0.0)


@torch.no_grad()
def clipped_variance(below: Tensor, above: Tensor) -> Tensor:
    """Return the variance of a normal `n` of unit variance that is cut off at `-below` and at `above`.

    With a = `below` and b = `above`, phi and Phi the density and distribution of `n`: the second moment is `Phi(b) -
    Phi(-a) - a phi(a) - b phi(b) + a^2 Phi(-a) + b^2 Phi(-b)`, the mean `phi(a) - a Phi(-a) - phi(b) + b Phi(-b)`.
    Infinity is an end that is not cut. No gradient is tracked.
    """
    second, mean = torch.ones_like(below), torch.zeros_like(below)
    for end, sign in ((below, 1.0), (above, -1.0)):
        a = end.clamp(-_FAR, _FAR)
        density = (-0.5 * a.square()).exp() / math.sqrt(2.0 * math.pi)
        beyond = 0.5 * torch.erfc(a * math.sqrt(0.5))
        second = second - beyond - a * density + a.square() * beyond
        mean = mean + sign * (density - a * beyond)
    return (second - mean.square()).clamp_min(0.0)


def _parameter(value: float | Sequence[float] | Tensor, name: str) -> Tensor:
    tensor = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.float64).reshape(-1)
    if not bool(torch.isfinite(tensor).all()) or bool((tensor < 0).any()):
        raise DegradationError(f"{name} must be finite and not negative, got {value}.")
    return tensor


def _column(value: Tensor, x: Tensor) -> Tensor:
    """Shape a parameter [b] so that it broadcasts against x [B, C, *spatial]."""
    return value.to(x).reshape(-1, *([1] * (x.ndim - 1)))


def _normal(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)

"""Any linear operator that has `forward` and `adjoint`, by conjugate gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

from medfuse.physics.degradation import Degradation, mean_variances
from medfuse.physics.models.conjugate_gradients import Solution, conjugate_gradient
from medfuse.physics.models.source import Bias, SourceModel, spread
from medfuse.physics.operators.base import LinearOperator
from medfuse.physics.operators.cosine import along_all, cosine_waves, slow_waves

_PROBES = 8  # images of white noise from which the power that passes is estimated: within half of it in each wave
_NODES = 9  # frequencies along an axis at which slow waves are sent through an operator; between them it is smooth


class KrylovModel(SourceModel):
    """Any linear operator, by conjugate gradients: the data space are the pixels of the observation."""

    def __init__(
        self,
        degradation: Degradation,
        y: Tensor,
        spatial: Sequence[int],
        *,
        bias: Callable[[SourceModel], Bias | None] | None = None,
        tolerance: float = 1e-5,
        max_iterations: int = 60,
    ) -> None:
        super().__init__(degradation, y, spatial, bias=bias)
        self._tolerance, self._max_iterations = tolerance, max_iterations
        self._noises = mean_variances(degradation, self._level)
        self._noise_shapes = degradation.noise_shapes(self.spatial)

    def under(self, degradation: Degradation) -> KrylovModel:
        """Return the model of the same data under another degradation."""
        return KrylovModel(
            degradation,
            self.y,
            self.spatial,
            bias=self._find_bias,
            tolerance=self._tolerance,
            max_iterations=self._max_iterations,
        )

    @property
    def data(self) -> Tensor:
        """The observation."""
        return self.y

    def observe(self, x: Tensor) -> Tensor:
        """Return `A x`."""
        return self.operator.forward(x)

    def residual(self, x: Tensor, mean: Tensor | None = None) -> Tensor:
        """Return `y - E y`."""
        signal = self.observe(x) if mean is None else mean
        return self.y - signal if self.bias is None else self.y - signal - self.bias(signal.detach())

    def pixels(self, r: Tensor) -> Tensor:
        """Return `r`."""
        return r

    def back(self, r: Tensor) -> Tensor:
        """Return `A' r`."""
        return self.operator.adjoint(r, self.spatial)

    def gram(self, r: Tensor) -> Tensor:
        """Return `A A' r`."""
        return self.operator.forward(self.back(r))

    def covariance(self, r: Tensor) -> Tensor:
        """Return `R r`, the sum over the noises of `sigma^2 L L' r` and the floor."""
        total = r * self.degradation.floor**2
        for (variance, after), shape in zip(self._noises, self._noise_shapes, strict=True):
            total = total + spread(variance, r) * after.forward(after.adjoint(r, shape))
        excess = self.degradation.excess
        return total if excess is None else total * spread(excess, r)

    def solve(self, variance: Tensor, r: Tensor) -> Solution:
        """Solve with `P A A' + R`."""
        p = spread(variance, r)
        return self._solved(lambda v: p * self.gram(v) + self.covariance(v), r)

    def pseudo_inverse(self, r: Tensor, ridge: float = 1e-8) -> Tensor:
        """Return `A' (A A' + ridge)^-1 r`."""
        return self.back(self._solved(lambda v: self.gram(v) + ridge * v, r).x)

    def waves(self) -> Tensor:
        """Return the cosine coefficients of the data."""
        return cosine_waves(self.y)

    def gains(self, operator: LinearOperator) -> Tensor:
        """Return the mean power of eight images of white noise after the operator, the same images each time."""
        return self._probed(operator, self.spatial)

    def noises(self) -> Tensor:
        """Return the variance of the noise; where an operator acted after it, from images of white noise, too."""
        total = self.y.new_full((1,) * self.y.ndim, self.degradation.floor**2)
        for (variance, after), shape in zip(self._noises, self._noise_shapes, strict=True):
            colour = self.y.new_ones(()) if after.is_identity else self._probed(after, shape)
            total = total + spread(variance, self.y) * colour
        excess = self.degradation.excess
        return total if excess is None else total * spread(excess, self.y)

    def slow_spectrum(self, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return what waves along each axis let pass, and their product for those along several."""
        gain = self._slow_gains(self.operator, self.spatial, counts)
        noise = torch.full_like(gain, self.degradation.floor**2)
        for (variance, after), shape in zip(self._noises, self._noise_shapes, strict=True):
            noise = noise + spread(variance, gain) * self._slow_gains(after, shape, counts)
        excess = self.degradation.excess
        return gain, noise if excess is None else noise * spread(excess, gain)

    def slow_residual(self, x: Tensor, gain: Tensor) -> Tensor:
        """Return the lowest coefficients of `A' r`, each over its gain: a mask or a gap takes part in no wave alone."""
        waves = slow_waves(self.spatial, gain.shape[2:], x)
        return along_all(waves, self.back(self.residual(x))) / _root(gain)

    def slow_back(self, r: Tensor, gain: Tensor) -> Tensor:
        """Return an image of slow waves alone."""
        waves = slow_waves(self.spatial, gain.shape[2:], r)
        return along_all([rows.mT for rows in waves], r * _root(gain))

    @torch.no_grad()
    def _probed(self, operator: LinearOperator, shape: Sequence[int]) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        power = self.y.new_zeros(())
        for _ in range(_PROBES):
            x = torch.randn((1, 1, *shape), generator=generator, dtype=torch.float32).to(self.y)
            power = power + cosine_waves(operator.forward(x)).square() / _PROBES
        return power

    @torch.no_grad()
    def _slow_gains(self, operator: LinearOperator, shape: Sequence[int], counts: Sequence[int]) -> Tensor:
        """Return `diag(A A')` of the slowest waves of the data, **[b, 1, *counts]**."""
        like, ndim = self.y, len(shape)
        wanted = [
            torch.arange(k, device=like.device, dtype=like.dtype) * (math.pi / n)
            for k, n in zip(counts, shape, strict=True)
        ]
        nodes = torch.linspace(
            0, float(max(omega[-1] for omega in wanted)), _NODES, device=like.device, dtype=like.dtype
        )
        power = torch.cat([operator.power_gains(omega[None], shape).to(like) for omega in nodes], -1)  # [b, D, nodes]
        rows = [_between(nodes, power[:, d], omega) for d, omega in enumerate(wanted)]
        mean = power[:, :1, 0].clamp_min(torch.finfo(like.dtype).tiny)  # of a flat image, which each row holds
        rows = [row if d == 0 else row / mean for d, row in enumerate(rows)]
        outer = [row.reshape(len(row), 1, *([1] * d), -1, *([1] * (ndim - d - 1))) for d, row in enumerate(rows)]
        return reduce(torch.mul, outer) * (math.prod(like.shape[2:]) / math.prod(shape))

    def _solved(self, apply: Callable[[Tensor], Tensor], r: Tensor) -> Solution:
        return conjugate_gradient(apply, r, tolerance=self._tolerance, max_iterations=self._max_iterations)


def _root(gain: Tensor) -> Tensor:
    return gain.clamp_min(torch.finfo(gain.dtype).tiny).sqrt()


def _between(nodes: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """Interpolate values **[b, n]** at equidistant nodes **[n]**, the first of them 0, linearly at `x` **[k]**."""
    position = x / nodes[1].clamp_min(torch.finfo(x.dtype).tiny)
    low = position.long().clamp(0, len(nodes) - 2)
    return torch.lerp(values[:, low], values[:, low + 1], position - low)

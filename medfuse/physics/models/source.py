"""What is asked of one source's observation model, `y = A x + n`, bound to its data.

Each model answers (residual, chi-square, gradient, the noise-aware update) in a data space of its own choice:
`medfuse.physics.models.spectral` in cosine coefficients, `medfuse.physics.models.krylov` in pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.errors import GeometryError
from medfuse.physics.degradation import Degradation, sigma_map
from medfuse.physics.models.conjugate_gradients import inner
from medfuse.physics.noise import clipped_mean
from medfuse.physics.operators.base import LinearOperator
from medfuse.physics.operators.blur import GaussianBlur
from medfuse.physics.replication import lift, replicate

_PRIOR_VARIANCE = 0.02
_LARGEST_VARIANCE = 1e2


class SourceModel(ABC):
    """One source's observation `y = A x + n`, bound to its data.

    Tensors called `x` are images **[B, C, *spatial]**; variances are **[B]** or scalars, in squared fractions of full
    range. Residuals live in the model's data space; only this class and its sub-classes look inside.

    Attributes:
        blur_share: Share of the width that was stated of the blur with which the model works, **[B]**, 0..1.
    """

    def __init__(self, degradation: Degradation, y: Tensor, spatial: Sequence[int]) -> None:
        """Bind an observation.

        Args:
            degradation: What happened to the source.
            y: The observation **[B, C, *out_spatial]**.
            spatial: Shape of the image that is sought.

        Raises:
            GeometryError: The observation has not the shape that the operator gives.
        """
        self.degradation = degradation
        self.operator: LinearOperator = degradation.operator
        self.spatial = tuple(spatial)
        expected = self.operator.out_spatial(self.spatial)
        if tuple(y.shape[2:]) != expected:
            raise GeometryError(
                f"an observation of an image of shape {self.spatial} must have shape {expected}, "
                f"got {tuple(y.shape[2:])}."
            )
        self.y = y
        self.blur_share = y.new_ones(len(y))
        dependent = any(noise.depends_on_signal for noise, _ in degradation.noises)
        self._level = smooth(self.lifted) if dependent else y.new_zeros(()).expand(*y.shape[:2], *self.spatial)

    # ---- the data space of the model
    @abstractmethod
    def observe(self, x: Tensor) -> Tensor:
        """Return `A x` in data space."""

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """Return `y - E y` in data space, where `E y` is the mean observation of `x`: `A x` unless noise is biased."""

    @abstractmethod
    def back(self, r: Tensor) -> Tensor:
        """Return `A' r`, an image."""

    @abstractmethod
    def gram(self, r: Tensor) -> Tensor:
        """Return `A A' r`."""

    @abstractmethod
    def covariance(self, r: Tensor) -> Tensor:
        """Return `R r`."""

    @abstractmethod
    def solve(self, variance: Tensor, r: Tensor) -> Tensor:
        """Return `(P A A' + R)^-1 r` for the scalar `P = variance` **[B]**; `P = 0` gives the whitening `R^-1 r`."""

    @abstractmethod
    def pseudo_inverse(self, r: Tensor, ridge: float = 1e-8) -> Tensor:
        """Return `A' (A A' + ridge)^-1 r`, an image."""

    # ---- what follows
    def misfit(self, x: Tensor) -> Tensor:
        """Return `y - A x` on the grid of the image, replicated where the observation is coarser."""
        return replicate(self.y - self.operator.forward(x), self.operator, self.spatial)

    @cached_property
    def _bias(self) -> Callable[[Tensor], Tensor] | None:
        """By how much the observation of a noiseless signal `A x` lies above it on average; None for nothing.

        Rician noise is biased by itself, Gaussian noise where negative values were set to 0 as the data were stored:
        then 0 is their least value. Where nothing around is above 0, something else has blanked the data, and nothing
        is known.
        """
        noises = [noise for noise, _ in self.degradation.noises]
        if not noises or any(noise.depends_on_signal for noise in noises):
            return None
        cut = self.y.amin(tuple(range(1, self.y.ndim)), keepdim=True) == 0
        if any(noise.biased for noise in noises):
            cut = torch.ones_like(cut)
        elif not bool(cut.any()):
            return None
        pool = F.max_pool2d if self.y.ndim == 4 else F.max_pool3d
        known = (pool(self.y, 5, stride=1, padding=2) > 0) & cut
        std = self.sigma().flatten(2).amax(2).reshape(-1, self.y.shape[1], *([1] * (self.y.ndim - 2)))
        std = std / noises[0].share  # what is an average was cut in each of its images

        def bias(signal: Tensor) -> Tensor:
            mean = reduce(lambda v, noise: noise.mean(v), noises, signal)
            return clipped_mean(mean, std).sub_(signal).mul_(known)

        return bias

    @property
    def lifted(self) -> Tensor:
        """The observation interpolated to the grid of the image."""
        return lift(self.y, self.operator, self.spatial)

    def gradient(self, x: Tensor) -> Tensor:
        """Return `A' (A x - y)`: what the data say about an estimate, as an image."""
        return -self.back(self.residual(x))

    def chi2(self, x: Tensor) -> Tensor:
        """Return `(y - A x)' R^-1 (y - A x) / n` of each sample, **[B]**: 1 on average for the true image."""
        r = self.residual(x)
        return _mean(r, self.solve(r.new_zeros(len(r)), r))

    def update(self, x0: Tensor, variance: Tensor) -> Tensor:
        """Return `x0 + P A' (P A A' + R)^-1 (y - A x0)`, the best estimate when `x0` has the error variance P."""
        return x0 + spread(variance, x0) * self.back(self.solve(variance, self.residual(x0)))

    def inverse(self) -> Tensor:
        """Return a regularised inverse of the observation: the interpolated data, updated once."""
        return self.update(self.lifted, self.y.new_full((len(self.y),), _PRIOR_VARIANCE))

    def sigma(self) -> Tensor:
        """Return the std of the noise on the grid of the image, **[B, C, *spatial]**."""
        return sigma_map(self.degradation, self._level)

    def condensed(self, r: Tensor) -> Tensor:
        """Return a smaller residual that gives the same mean squares and products, where there is one."""
        return r

    def discrepancy(self, x0: Tensor, *, target: float = 1.0, iterations: int = 8) -> Tensor:
        """Return the smallest variance **[B]** whose update of `x0` leaves a chi-square of at most `target`.

        With `u = (P A A' + R)^-1 r` the residual after the update is `R u`, so its chi-square is `u' R u / n`. Newton's
        method runs on its inverse square root, which is nearly linear in P.

        Reference:
            Morozov, On the solution of functional equations by the method of regularization (1966);
            Hebden's iteration as in Conn, Gould and Toint, Trust-Region Methods (2000), section 7.3.
        """
        with torch.no_grad():
            r = self.residual(x0)
            r = self.condensed(r)
            variance = r.new_zeros(len(r))
            for _ in range(iterations):
                u = self.solve(variance, r)
                ru = self.covariance(u)
                chi2 = _mean(u, ru)
                open_ = chi2 > target * (1 + 1e-4)
                if not bool(open_.any()):
                    break
                slope = -2.0 * _mean(ru, self.solve(variance, self.gram(u)))
                step = -2.0 * chi2 / slope.clamp_max(-torch.finfo(r.dtype).tiny) * ((chi2 / target).sqrt() - 1.0)
                variance = torch.where(open_, (variance + step).clamp(0.0, _LARGEST_VARIANCE), variance)
            return variance

    def consistency(self, x0: Tensor) -> Tensor:
        """Return the variance **[B]** that the last step needs.

        It is that of `discrepancy`; where nothing at all happened to the source, it is so large that the update returns
        the observation itself.
        """
        if not self.degradation.steps:
            return self.y.new_full((len(self.y),), _LARGEST_VARIANCE)
        return self.discrepancy(x0)

    def settle(self, x0: Tensor, local: float | None = None) -> Tensor:
        """Return the estimate, moved to where means of the data tell it to be; itself if they are not known.

        Args:
            x0: The estimate.
            local: Standard deviations by which the local mean of the residual must exceed its noise to be believed;
                None: local means are not looked at.
        """
        return x0


def smooth(x: Tensor) -> Tensor:
    """Blur by one pixel: a level for signal-dependent noise."""
    return GaussianBlur(1.0).forward(x)


def _mean(a: Tensor, b: Tensor) -> Tensor:
    return inner(a, b).flatten() / a[0].numel()


def spread(value: Tensor, like: Tensor) -> Tensor:
    """Shape a value per sample [B] so that it broadcasts against a tensor [B, ...]."""
    return value.to(like).reshape(-1, *([1] * (like.ndim - 1)))

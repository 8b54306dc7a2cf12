"""What is asked of one source's observation model, `y = A x + n`, bound to its data.

Each model answers (residual, chi-square, gradient, the noise-aware update) in a data space of its own choice:
`medfuse.physics.models.spectral` in cosine coefficients, `medfuse.physics.models.krylov` in pixels. What the data prove
is asked of any model by `medfuse.physics.evidence`, through the same verbs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from medfuse.errors import GeometryError
from medfuse.physics.degradation import Degradation, sigma_map
from medfuse.physics.models.conjugate_gradients import Solution, inner, none_left
from medfuse.physics.operators.base import LinearOperator
from medfuse.physics.operators.blur import GaussianBlur
from medfuse.physics.replication import lift, replicate

_PRIOR_VARIANCE = 0.02
_LARGEST_VARIANCE = 1e2


class Bias(Protocol):
    """Mean and variance of an observation where they are not those of the noise as stated."""

    def __call__(self, signal: Tensor) -> Tensor:
        """Return `E y - A x`, for a noiseless signal `A x` **[B, C, *data]**, of its shape."""

    def share(self, signal: Tensor) -> Tensor:
        """Return the mean variance of the data over that of the noise as stated, **[B]**."""

    def shares(self, signal: Tensor) -> Tensor:
        """Return the variance of each datum over that of the noise as stated, of the shape of the signal."""


class SourceModel(ABC):
    """One source's observation `y = A x + n`, bound to its data.

    Tensors called `x` are images **[B, C, *spatial]**; variances are **[B]** or scalars, in squared fractions of full
    range. Residuals live in the model's data space; only this class and its sub-classes look inside, and
    `pixels` shows them as images.
    """

    def __init__(
        self,
        degradation: Degradation,
        y: Tensor,
        spatial: Sequence[int],
        *,
        bias: Callable[[SourceModel], Bias | None] | None = None,
    ) -> None:
        """Bind an observation.

        Args:
            degradation: What happened to the source.
            y: The observation **[B, C, *out_spatial]**.
            spatial: Shape of the image that is sought.
            bias: Finds the bias of the noise, see `medfuse.physics.evidence.bias`; it is asked once, when needed. None:
                the mean observation of `x` is `A x`.

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
        self._find_bias = bias
        dependent = any(noise.depends_on_signal for noise, _ in degradation.noises)
        self._level = smooth(self.lifted) if dependent else y.new_zeros(()).expand(*y.shape[:2], *self.spatial)

    @abstractmethod
    def under(self, degradation: Degradation) -> SourceModel:
        """Return the model of the same data under a degradation of the same steps with other parameters."""

    # ---- the data space of the model
    @property
    @abstractmethod
    def data(self) -> Tensor:
        """The observation in data space."""

    @abstractmethod
    def observe(self, x: Tensor) -> Tensor:
        """Return `A x` in data space."""

    @abstractmethod
    def residual(self, x: Tensor, mean: Tensor | None = None) -> Tensor:
        """Return `y - E y` in data space, where `E y` is the mean observation of `x`: `A x` unless noise is biased.

        Args:
            x: The image.
            mean: `A x` in data space, where it is known.
        """

    @abstractmethod
    def pixels(self, r: Tensor) -> Tensor:
        """Return a residual as an image of the data, **[B, C, *data]**."""

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
    def solve(self, variance: Tensor, r: Tensor) -> Solution:
        """Return `(P A A' + R)^-1 r` for the scalar `P = variance` **[B]**; `P = 0` gives the whitening `R^-1 r`."""

    @abstractmethod
    def pseudo_inverse(self, r: Tensor, ridge: float = 1e-8) -> Tensor:
        """Return `A' (A A' + ridge)^-1 r`, an image."""

    # ---- the cosine waves of the data, in which evidence is sought
    @abstractmethod
    def waves(self) -> Tensor:
        """Return the orthonormal type-II cosine coefficients of the data, **[B, C, *data]**."""

    @abstractmethod
    def gains(self, operator: LinearOperator) -> Tensor:
        """Return the power of white noise of unit variance in each wave of the data after an operator: `diag(A A')`.

        Args:
            operator: That of the model, or another with the same domain and range.

        Returns:
            Of a shape that broadcasts against `waves`.
        """

    @abstractmethod
    def noises(self) -> Tensor:
        """Return the variance of the noise in each wave of the data, `diag(R)`, which broadcasts against `waves`."""

    @abstractmethod
    def slow_spectrum(self, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return what the lowest waves of an image let pass, and the noise that meets them, **[b, c, *counts]** each.

        With `w_k` an orthonormal cosine wave of the image, these are `|A w_k|^2` and the variance of the noise of the
        data along `A w_k`. In closed form they are the lowest entries of `diag(A A')` and of `diag(R)`.
        """

    @abstractmethod
    def slow_residual(self, x: Tensor, gain: Tensor) -> Tensor:
        """Return the residual along each `A w_k / |A w_k|`, **[B, C, *counts]**, for the gain of `slow_spectrum`."""

    @abstractmethod
    def slow_back(self, r: Tensor, gain: Tensor) -> Tensor:
        """Return the image `sum_k |A w_k| w_k r_k` of coefficients **[B, C, *counts]**: their share of `A' r`."""

    def placed(self, mean: Tensor) -> Tensor:
        """Return where in the image a local mean **[B, C, *data]** of the residual belongs: `A' mean`."""
        return self.operator.adjoint(mean, self.spatial)

    # ---- what follows
    @cached_property
    def bias(self) -> Bias | None:
        """The bias of the noise; None for nothing."""
        return None if self._find_bias is None else self._find_bias(self)

    def misfit(self, x: Tensor, mean: Tensor | None = None) -> Tensor:
        """Return `y - A x` on the grid of the image, replicated where the observation is coarser; see `residual`."""
        left = self.y - self.operator.forward(x) if mean is None else self.pixels(self.data - mean)
        return replicate(left, self.operator, self.spatial)

    @property
    def lifted(self) -> Tensor:
        """The observation interpolated to the grid of the image."""
        return lift(self.y, self.operator, self.spatial)

    def gradient(self, x: Tensor) -> Tensor:
        """Return `A' (A x - y)`: what the data say about an estimate, as an image."""
        return -self.back(self.residual(x))

    def chi2(self, x: Tensor, mean: Tensor | None = None) -> Tensor:
        """Return `(y - E y)' R^-1 (y - E y) / n` of each sample, **[B]**: 1 on average for the true image.

        `R` is that of the stated noise, whatever the data have proven. Where values were cut off, less of its variance
        is left, see `Bias.share`, and chi-square is what it is over what it should be. For `mean` see `residual`.
        """
        r = self.residual(x, mean)
        chi2 = _mean(r, self.solve(r.new_zeros(len(r)), r).x) / self._left(x, mean)
        excess = self.degradation.excess
        return chi2 if excess is None else chi2 * excess

    def _left(self, x: Tensor, mean: Tensor | None = None) -> Tensor:
        """Return the share of the variance of the noise that is left in the data, **[B]**; 1 where none is cut."""
        if self.bias is None or self.degradation.excess is not None:  # proven by the data as they were stored
            return x.new_ones(len(x))
        return self.bias.share(self.operator.forward(x.detach()) if mean is None else self.pixels(mean.detach()))

    def update(self, x0: Tensor, variance: Tensor, residual: Tensor | None = None) -> Solution:
        """Return `x0 + P A' (P A A' + R)^-1 (y - A x0)`, the best estimate when `x0` has the error variance P.

        Args:
            x0: The estimate before.
            variance: P, **[B]**.
            residual: That of `x0`, where it is known.
        """
        u, converged = self.solve(variance, self.residual(x0) if residual is None else residual)
        return Solution(x0 + spread(variance, x0) * self.back(u), converged)

    def inverse(self) -> Tensor:
        """Return a regularised inverse of the observation: the interpolated data, updated once."""
        return self.update(self.lifted, self.y.new_full((len(self.y),), _PRIOR_VARIANCE)).x

    def sigma(self) -> Tensor:
        """Return the std of the noise on the grid of the image, as stated or proven, **[B, C, *spatial]**."""
        return sigma_map(self.degradation, self._level)

    def condensed(self, r: Tensor) -> Tensor:
        """Return a residual **[B, 1, ..., 1]** of the same mean squares and products, where there is one; else `r`.

        Where gain and noise are the same for all data, as without blur, `discrepancy` needs the mean square alone: its
        eight iterations then take no time, however large the image.
        """
        return r

    def discrepancy(
        self, x0: Tensor, *, target: float = 1.0, iterations: int = 8, residual: Tensor | None = None
    ) -> Tensor:
        """Return the smallest variance **[B]** whose update of `x0` leaves a chi-square of at most `target`.

        With `u = (P A A' + R)^-1 r` the residual after the update is `R u`, so its chi-square is `u' R u / n`, over the
        share of the noise that is left at `x0`. Newton's method runs on its inverse square root, which is nearly linear
        in P. Under an operator that share is taken for 1: of the waves that it hides all noise remains, and where that
        is stated a little too low, the others would be asked for what is not in them, and be blown up. The residual
        is that of `x0`, where it is known.

        Reference:
            Morozov, On the solution of functional equations by the method of regularization (1966);
            Hebden's iteration as in Conn, Gould and Toint, Trust-Region Methods (2000), section 7.3.
        """
        with torch.no_grad():
            allowed = target * self._left(x0) if self.operator.is_identity else target
            r = self.condensed(self.residual(x0) if residual is None else residual.detach())
            variance = r.new_zeros(len(r))
            for _ in range(iterations):
                u = self.solve(variance, r).x
                ru = self.covariance(u)
                chi2 = _mean(u, ru)
                open_ = chi2 > allowed * (1 + 1e-4)
                if none_left(open_):
                    break
                slope = -2.0 * _mean(ru, self.solve(variance, self.gram(u)).x)
                step = -2.0 * chi2 / slope.clamp_max(-torch.finfo(r.dtype).tiny) * ((chi2 / allowed).sqrt() - 1.0)
                variance = torch.where(open_, (variance + step).clamp(0.0, _LARGEST_VARIANCE), variance)
            return variance

    def consistency(self, x0: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return the variance **[B]** that the last step needs; the residual is that of `x0`, where it is known.

        It is that of `discrepancy`; where nothing at all happened to the source, it is so large that the update returns
        the observation itself.
        """
        if not self.degradation.steps:
            return self.y.new_full((len(self.y),), _LARGEST_VARIANCE)
        return self.discrepancy(x0, residual=residual)


def smooth(x: Tensor) -> Tensor:
    """Blur by one pixel: a level for signal-dependent noise."""
    return GaussianBlur(1.0).forward(x)


def _mean(a: Tensor, b: Tensor) -> Tensor:
    return inner(a, b).flatten() / a[0].numel()


def spread(value: Tensor, like: Tensor) -> Tensor:
    """Shape a value per sample [B] so that it broadcasts against a tensor [B, ...]."""
    return value.to(like).reshape(-1, *([1] * (like.ndim - 1)))

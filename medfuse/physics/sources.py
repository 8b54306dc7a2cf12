"""Observation models of one source: everything that is asked about `y = A x + n`, bound to its data.

Each answers (residual, chi-square, gradient, the noise-aware update) in a data space of its own choice:

* `SpectralModel`: cosine coefficients of the observation, where `A A'` and `R` are diagonal, so all is closed form;
* `KrylovModel`: pixels, by conjugate gradients, for any operator that has `forward` and `adjoint`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.errors import DegradationError, GeometryError
from medfuse.physics.blur import GaussianBlur, Identity, SpectralOperator
from medfuse.physics.degradation import Degradation, mean_variances, sigma_map
from medfuse.physics.grid import lift, replicate
from medfuse.physics.noise import clipped_mean
from medfuse.physics.operators import LinearOperator
from medfuse.physics.sharpness import allowed_share
from medfuse.physics.slow import LEAST_SIDE, octave_variances, slow_count
from medfuse.physics.solvers import conjugate_gradient, inner
from medfuse.physics.spectral import Analysis, apply_along, cosine_basis, cosine_transform

_PRIOR_VARIANCE = 0.02
_LARGEST_VARIANCE = 1e2
_NARROWINGS = 8  # rounds in which a blur is narrowed that the data disprove
_WINDOWS = (4.0, 2.0)  # std, px, of the windows in which a residual is settled in place
_SILENT = 1e-5  # power gain below which nothing of an image passes


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

    def settle(self, x0: Tensor) -> Tensor:
        """Return the estimate, moved to where the mean of the data proves it to be off; itself if that is not known."""
        return x0


class SpectralModel(SourceModel):
    """Blur and decimation in closed form: the data space are the cosine coefficients of the observation."""

    def __init__(self, degradation: Degradation, y: Tensor, spatial: Sequence[int]) -> None:
        super().__init__(degradation, y, spatial)
        operator = self.operator
        if not isinstance(operator, SpectralOperator):
            raise DegradationError(f"the closed form needs blur and decimation only, got {type(operator).__name__}.")
        self._plain = isinstance(operator, Identity)
        self._analysis: list[Analysis] = [] if self._plain else operator.analysis(self.spatial, y)
        spectrum = y.new_full((1,) * y.ndim, degradation.floor**2)
        for variance, after in mean_variances(degradation, self._level):
            if isinstance(after, Identity):
                colour: Tensor = y.new_ones(())
            else:
                if not isinstance(after, SpectralOperator):
                    raise DegradationError("the closed form needs blur and decimation after the noise.")
                colour = _outer([along.gram for along in after.analysis(after.in_spatial(y.shape[2:]), y)])
            spectrum = spectrum + spread(variance, y) * colour
        self._noise = spectrum
        self._data = y if self._plain else _waves(y)
        self._excess = y.new_ones(len(y)) if self._plain else self._proven()
        self._noise = spectrum * spread(self._excess, y)

    @property
    def _gram(self) -> Tensor:
        """Eigenvalues of `A A'`, made anew each time: they are as many as the data."""
        return _outer([along.gram for along in self._analysis]) if self._analysis else self.y.new_ones(())

    def observe(self, x: Tensor) -> Tensor:
        """Return the cosine coefficients of `A x`."""
        for axis, along in enumerate(self._analysis):
            x = along.forward(x, axis)
        return x

    def residual(self, x: Tensor) -> Tensor:
        """Return the cosine coefficients of `y - E y`."""
        mean = self.observe(x)
        if self._bias is not None:
            signal = mean.detach()
            mean = mean + (self._bias(signal) if self._plain else _waves(self._bias(_waves(signal, inverse=True))))
        return self._data - mean

    def back(self, r: Tensor) -> Tensor:
        """Return `A' r`."""
        for axis, along in enumerate(self._analysis):
            r = along.adjoint(r, axis)
        return r

    def gram(self, r: Tensor) -> Tensor:
        """Multiply by the eigenvalues of `A A'`."""
        return r * self._gram

    def covariance(self, r: Tensor) -> Tensor:
        """Multiply by the noise spectrum."""
        return r * self._noise

    def solve(self, variance: Tensor, r: Tensor) -> Tensor:
        """Divide by `P A A' + R`."""
        return r / (spread(variance, r) * self._gram + self._noise)

    def pseudo_inverse(self, r: Tensor, ridge: float = 1e-8) -> Tensor:
        """Return `A' (A A' + ridge)^-1 r`."""
        return self.back(r / (self._gram + ridge))

    def condensed(self, r: Tensor) -> Tensor:
        """Return the root mean square alone where gain and noise are the same for all coefficients."""
        if self._analysis or self._noise[0].numel() > 1:
            return r
        return (inner(r, r) / r[0].numel()).sqrt()

    def sigma(self) -> Tensor:
        """Return the std of the noise, as stated, or as high as the data prove it to be."""
        return sigma_map(self.degradation, self._level, self._excess)

    def chi2(self, x: Tensor) -> Tensor:
        """Return the chi-square by the stated noise, whatever the data prove."""
        return super().chi2(x) * self._excess

    def _proven(self) -> Tensor:
        """Return the factor, 1 or more, by which the data prove the variance of the noise to be understated, **[B]**.

        Where the operator lets nothing of the image through, the data are noise alone; beyond four standard deviations
        of their mean power they are believed. Else noise would be taken for the image, and blown up.
        """
        silent = (self._gram < _SILENT).expand_as(self._data)
        count = silent.flatten(1).sum(1)
        noise = torch.where(silent, self._data, 0.0)
        power = (noise.square() / self._noise).flatten(1).sum(1) / count.clamp_min(1)
        proven = power > 1 + 4 * (2 / count.clamp_min(1)).sqrt()
        return torch.where(proven & (count > 0), power, torch.ones_like(power))

    def allowed_share(self) -> Tensor:
        """Return the share of its width up to which the blur agrees with the data, **[B]**, 0..1."""
        if not any(isinstance(step, GaussianBlur) for step in self.degradation.steps):
            return self.y.new_ones(len(self.y))

        def gram(share: Tensor) -> Tensor:
            narrowed = self.degradation.narrowed(share).operator
            analysis = narrowed.analysis(self.spatial, self.y)  # type: ignore[attr-defined]
            return _outer([along.gram for along in analysis])

        # what is left of the noise of an average is not white: no more is known than the noise of what was averaged
        noise = self._noise / min([noise.share for noise, _ in self.degradation.noises], default=1.0) ** 2
        return allowed_share(self._data, noise, gram, rounding=self.degradation.floor**2)

    def settle(self, x0: Tensor) -> Tensor:
        """Move the slowest waves of an estimate to where the data prove them to be.

        In the mean, and in each octave of waves longer than 32 px of the data that keep half of their power, the power
        of the residual is compared with that of the noise. Where it is more than two standard deviations above, the
        difference is taken for the error variance P of the octave, which is updated with it. So totals and the means of
        large regions are those of the data, whatever the network has learned, and hardly any noise comes along.

        Where the noise depends on the signal, the update of all waves at once knows its mean variance only, which is
        too much where the signal is low. There the residual is settled in place, too, see `_settled_in_place`.

        Reference:
            Mehra, On the identification of variances and adaptive Kalman filtering (IEEE TAC 1970).
        """
        sizes = self.y.shape[2:]
        if min(sizes) < LEAST_SIDE:
            return x0
        counts = [slow_count(n) for n in sizes]
        low = (slice(None), slice(None), *map(slice, counts))
        if self._plain:
            slow = [cosine_basis(n, x0, torch.arange(k, device=x0.device)) for n, k in zip(sizes, counts, strict=True)]
            r = _along_all(slow, self.residual(x0))
        else:
            slow = [along.slow(k, x0) for along, k in zip(self._analysis, counts, strict=True)]
            r = self.residual(x0)[low] if self._bias else self._data[low] - _along_all(slow, x0)
        gram = self._gram.expand(*r.shape[:2], *sizes)[low]
        noise = self._noise.expand(*r.shape[:2], *sizes)[low]
        variance = octave_variances(r, gram, noise, sizes)
        change = variance * r / (variance * gram + noise)
        x0 = x0 + _along_all([matrix.mT for matrix in slow], change)
        white = all(isinstance(after, Identity) for _, after in self.degradation.noises)
        dependent = any(noise.depends_on_signal for noise, _ in self.degradation.noises)
        return self._settled_in_place(x0) if dependent and white and sizes == self.spatial else x0

    def _settled_in_place(self, x: Tensor) -> Tensor:
        """Add what the local mean of the residual proves, by the variance of the noise there.

        The residual is averaged with Gaussian windows; of a mean m whose noise has the variance v, `m (1 - 4 v / m^2)`
        is believed where it is positive: nothing below two standard deviations.

        Reference:
            Breiman, Better subset regression using the nonnegative garrote (Technometrics 1995).
        """
        variance = self.sigma().square()
        for width in 2 * _WINDOWS:
            r = self.residual(x)
            mean = GaussianBlur(width).forward(r if self._plain else _waves(r, inverse=True))
            noise = GaussianBlur(width / math.sqrt(2)).forward(variance) / (2 * math.sqrt(math.pi) * width) ** (
                r.ndim - 2
            )
            tiny = torch.finfo(mean.dtype).tiny
            x = x + mean * (1 - 4 * noise / mean.square().clamp_min(tiny)).clamp_min(0)
        return x


class KrylovModel(SourceModel):
    """Any linear operator, by conjugate gradients: the data space are the pixels of the observation."""

    def __init__(
        self,
        degradation: Degradation,
        y: Tensor,
        spatial: Sequence[int],
        *,
        tolerance: float = 1e-5,
        max_iterations: int = 60,
    ) -> None:
        super().__init__(degradation, y, spatial)
        self._tolerance, self._max_iterations = tolerance, max_iterations
        self._noises = mean_variances(degradation, self._level)
        self._noise_shapes = degradation.noise_shapes(self.spatial)

    def observe(self, x: Tensor) -> Tensor:
        """Return `A x`."""
        return self.operator.forward(x)

    def residual(self, x: Tensor) -> Tensor:
        """Return `y - E y`."""
        signal = self.observe(x)
        return self.y - signal if self._bias is None else self.y - signal - self._bias(signal.detach())

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
        return total

    def solve(self, variance: Tensor, r: Tensor) -> Tensor:
        """Solve with `P A A' + R`."""
        p = spread(variance, r)
        return self._cg(lambda v: p * self.gram(v) + self.covariance(v), r)

    def pseudo_inverse(self, r: Tensor, ridge: float = 1e-8) -> Tensor:
        """Return `A' (A A' + ridge)^-1 r`."""
        return self.back(self._cg(lambda v: self.gram(v) + ridge * v, r))

    def _cg(self, apply: object, r: Tensor) -> Tensor:
        return conjugate_gradient(apply, r, tolerance=self._tolerance, max_iterations=self._max_iterations)  # type: ignore[arg-type]


def bind(degradation: Degradation, y: Tensor, spatial: Sequence[int]) -> SourceModel:
    """Bind an observation to the model that solves it: closed form where there is one, else conjugate gradients.

    In closed form, a blur that is stated wider than the data allow is narrowed, see `medfuse.physics.sharpness`.
    """
    operators = [degradation.operator, *(after for _, after in degradation.noises)]
    closed = all(isinstance(op, SpectralOperator) for op in operators)
    if not closed or not degradation.operator.divides(spatial):  # type: ignore[attr-defined]
        return KrylovModel(degradation, y, spatial)
    model = SpectralModel(degradation, y, spatial)
    share = y.new_ones(len(y))
    for _ in range(_NARROWINGS):  # with a narrower blur, less of the data is taken for noise, and more of them tells
        allowed = model.allowed_share()
        if bool((allowed == 1).all()):
            break
        share = share * allowed
        model = SpectralModel(degradation.narrowed(share), y, spatial)
    model.blur_share = share
    return model


def _waves(x: Tensor, *, inverse: bool = False) -> Tensor:
    """Return the cosine coefficients of an image **[B, C, *spatial]**, or the image of its coefficients."""
    for axis in range(x.ndim - 2):
        x = cosine_transform(x, axis, inverse=inverse)
    return x


def _along_all(matrices: Sequence[Tensor], x: Tensor) -> Tensor:
    """Apply a matrix along each spatial axis of `x` **[B, C, *spatial]**."""
    for axis, matrix in enumerate(matrices):
        x = apply_along(matrix, x, axis)
    return x


def smooth(x: Tensor) -> Tensor:
    """Blur by one pixel: a level for signal-dependent noise."""
    return GaussianBlur(1.0).forward(x)


def _mean(a: Tensor, b: Tensor) -> Tensor:
    return inner(a, b).flatten() / a[0].numel()


def spread(value: Tensor, like: Tensor) -> Tensor:
    """Shape a value per sample [B] so that it broadcasts against a tensor [B, ...]."""
    return value.to(like).reshape(-1, *([1] * (like.ndim - 1)))


def _outer(rows: Sequence[Tensor]) -> Tensor:
    """Return the outer product over axes of [b, n_d], as [b, 1, *n]."""
    ndim = len(rows)
    return reduce(
        torch.mul, [r.reshape(len(r), 1, *([1] * d), r.shape[1], *([1] * (ndim - d - 1))) for d, r in enumerate(rows)]
    )

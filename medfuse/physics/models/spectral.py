"""Blur and decimation in closed form: in cosine coefficients `A A'` and the noise are diagonal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.physics.degradation import Degradation, mean_variances, sigma_map
from medfuse.physics.evidence.blur import allowed_share
from medfuse.physics.evidence.slow_waves import LEAST_SIDE, octave_variances, slow_count
from medfuse.physics.models.conjugate_gradients import inner
from medfuse.physics.models.source import SourceModel, spread
from medfuse.physics.operators.blur import GaussianBlur, Identity, SpectralOperator
from medfuse.physics.operators.cosine import Analysis, apply_along, cosine_basis, cosine_transform

_WINDOW = 2.0  # std, px, of the window in which a residual is settled in place
_ROUNDS = 3  # of settling in place: each takes a part of what the one before has left
_SILENT = 1e-5  # power gain below which nothing of an image passes


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
        if not self.degradation.blurred:
            return self.y.new_ones(len(self.y))

        def gram(share: Tensor) -> Tensor:
            narrowed = self.degradation.narrowed(share).operator
            analysis = narrowed.analysis(self.spatial, self.y)  # type: ignore[attr-defined]
            return _outer([along.gram for along in analysis])

        # what is left of the noise of an average is not white: no more is known than the noise of what was averaged
        noise = self._noise / min([noise.share for noise, _ in self.degradation.noises], default=1.0) ** 2
        return allowed_share(self._data, noise, gram, rounding=self.degradation.floor**2)

    def settle(self, x0: Tensor, local: float | None = None) -> Tensor:
        """Move the slowest waves of an estimate to where the data prove them to be.

        In the mean, and in each octave of waves longer than 32 px of the data that keep half of their power, the power
        of the residual is compared with that of the noise. Where it is more than two standard deviations above, the
        difference is taken for the error variance P of the octave, which is updated with it. So totals and the means of
        large regions are those of the data, whatever the network has learned, and hardly any noise comes along.

        With `local`, the residual is settled in place, too, see `_settled_in_place`, where data with noise are as fine
        as the image.

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
        if local is None or not self.degradation.noises or not white or sizes != self.spatial:
            return x0
        return self._settled_in_place(x0, local)

    def _settled_in_place(self, x: Tensor, local: float) -> Tensor:
        """Add what the local mean of the residual tells, by the variance of the noise there.

        The best estimate of least squares shrinks what is rare: a small cold spot is filled in. So the residual is
        averaged with a Gaussian window; of a mean m whose noise has the variance v, `m (1 - local^2 v / m^2)` is added
        where that is positive.

        Reference:
            Breiman, Better subset regression using the nonnegative garrote (Technometrics 1995).
        """
        variance = self.sigma().square()
        window, narrower = GaussianBlur(_WINDOW), GaussianBlur(_WINDOW / math.sqrt(2))
        noise = narrower.forward(variance) / (2 * math.sqrt(math.pi) * _WINDOW) ** (x.ndim - 2)
        least = (local**2 * noise).clamp_min(torch.finfo(noise.dtype).tiny)  # square of a mean that is believed
        for _ in range(_ROUNDS):
            r = self.residual(x)
            mean = window.forward(r if self._plain else _waves(r, inverse=True))
            x = x + mean * (1 - least / torch.maximum(mean.square(), least))
        return x


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


def _outer(rows: Sequence[Tensor]) -> Tensor:
    """Return the outer product over axes of [b, n_d], as [b, 1, *n]."""
    ndim = len(rows)
    return reduce(
        torch.mul, [r.reshape(len(r), 1, *([1] * d), r.shape[1], *([1] * (ndim - d - 1))) for d, r in enumerate(rows)]
    )

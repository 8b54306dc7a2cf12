"""Blur and decimation in closed form: in cosine coefficients `A A'` and the noise are diagonal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.physics.degradation import Degradation, mean_variances
from medfuse.physics.models.conjugate_gradients import Solution, inner
from medfuse.physics.models.source import Bias, SourceModel, spread
from medfuse.physics.operators.base import LinearOperator
from medfuse.physics.operators.blur import Identity, SpectralOperator
from medfuse.physics.operators.cosine import Analysis, along_all, cosine_waves, slow_waves


class SpectralModel(SourceModel):
    """Blur and decimation in closed form: the data space are the cosine coefficients of the observation.

    Without either the data space are the pixels: there nothing needs a transform.

    Raises:
        DegradationError: The operator, or what follows a noise, is more than blur and decimation.
    """

    def __init__(
        self,
        degradation: Degradation,
        y: Tensor,
        spatial: Sequence[int],
        *,
        bias: Callable[[SourceModel], Bias | None] | None = None,
        waves: Tensor | None = None,
    ) -> None:
        super().__init__(degradation, y, spatial, bias=bias)
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
        self._noise = spectrum if degradation.excess is None else spectrum * spread(degradation.excess, y)
        self._data = y if self._plain else cosine_waves(y) if waves is None else waves

    def under(self, degradation: Degradation) -> SpectralModel:
        """Return the model of the same data under another degradation; their waves are known."""
        return SpectralModel(degradation, self.y, self.spatial, bias=self._find_bias, waves=self._data)

    @property
    def _gram(self) -> Tensor:
        """Eigenvalues of `A A'`, made anew each time: they are as many as the data."""
        return _outer([along.gram for along in self._analysis]) if self._analysis else self.y.new_ones(())

    @property
    def data(self) -> Tensor:
        """The cosine coefficients of the observation; without blur and decimation the observation itself."""
        return self._data

    def observe(self, x: Tensor) -> Tensor:
        """Return the cosine coefficients of `A x`."""
        for axis, along in enumerate(self._analysis):
            x = along.forward(x, axis)
        return x

    def residual(self, x: Tensor, mean: Tensor | None = None) -> Tensor:
        """Return the cosine coefficients of `y - E y`."""
        mean = self.observe(x) if mean is None else mean
        if self.bias is not None:
            bias = self.bias(self.pixels(mean.detach()))
            mean = mean + (bias if self._plain else cosine_waves(bias))
        return self._data - mean

    def pixels(self, r: Tensor) -> Tensor:
        """Return the image of cosine coefficients."""
        return r if self._plain else cosine_waves(r, inverse=True)

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

    def solve(self, variance: Tensor, r: Tensor) -> Solution:
        """Divide by `P A A' + R`."""
        return Solution(r / (spread(variance, r) * self._gram + self._noise), _all_of(r))

    def pseudo_inverse(self, r: Tensor, ridge: float = 1e-8) -> Tensor:
        """Return `A' (A A' + ridge)^-1 r`."""
        return self.back(r / (self._gram + ridge))

    def condensed(self, r: Tensor) -> Tensor:
        """Return the root mean square alone, **[B, 1, ..., 1]**, where gain and noise are the same for all data."""
        if self._analysis or self._noise[0].numel() > 1:
            return r
        return (inner(r, r) / r[0].numel()).sqrt()

    def waves(self) -> Tensor:
        """Return the data."""
        return cosine_waves(self.y) if self._plain else self._data

    def gains(self, operator: LinearOperator) -> Tensor:
        """Return the eigenvalues of `A A'`.

        Raises:
            DegradationError: The operator is more than blur and decimation.
        """
        if operator is self.operator:
            return self._gram
        if not isinstance(operator, SpectralOperator):
            raise DegradationError(f"the closed form needs blur and decimation only, got {type(operator).__name__}.")
        return _outer([along.gram for along in operator.analysis(self.spatial, self.y)])

    def noises(self) -> Tensor:
        """Return the noise spectrum."""
        return self._noise

    def slow_spectrum(self, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the lowest eigenvalues of `A A'` and the noise spectrum there."""
        low = (slice(None), slice(None), *map(slice, counts))
        whole = self.y.shape
        return self._gram.expand(whole)[low], self._noise.expand(whole)[low]

    def slow_residual(self, x: Tensor, gain: Tensor) -> Tensor:
        """Return the lowest coefficients; no others are made where nothing but `A x` is needed of the image."""
        counts = gain.shape[2:]
        if self._plain:
            return along_all(self._slow_rows(counts, x), self.residual(x))
        low = (slice(None), slice(None), *map(slice, counts))
        return self.residual(x)[low] if self.bias else self._data[low] - along_all(self._slow_rows(counts, x), x)

    def slow_back(self, r: Tensor, gain: Tensor) -> Tensor:
        """Return `A' r` of the lowest coefficients."""
        return along_all([rows.mT for rows in self._slow_rows(r.shape[2:], r)], r)

    def placed(self, mean: Tensor) -> Tensor:
        """Return the mean itself: a blur that is symmetric, and nowhere negative in its response, moves nothing."""
        return mean

    def _slow_rows(self, counts: Sequence[int], like: Tensor) -> list[Tensor]:
        """Return the rows of `A` along each axis that give the lowest coefficients, **[b, count, n]** or without b."""
        if self._plain:
            return slow_waves(self.spatial, counts, like)
        return [along.slow(k, like) for along, k in zip(self._analysis, counts, strict=True)]


def _all_of(r: Tensor) -> Tensor:
    return torch.ones(len(r), dtype=torch.bool, device=r.device)


def _outer(rows: Sequence[Tensor]) -> Tensor:
    """Return the outer product over axes of [b, n_d], as [b, 1, *n]."""
    ndim = len(rows)
    return reduce(
        torch.mul, [r.reshape(len(r), 1, *([1] * d), r.shape[1], *([1] * (ndim - d - 1))) for d, r in enumerate(rows)]
    )

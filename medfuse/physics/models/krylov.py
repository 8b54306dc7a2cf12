"""Any linear operator that has `forward` and `adjoint`, by conjugate gradients."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from medfuse.physics.degradation import Degradation, mean_variances
from medfuse.physics.models.conjugate_gradients import conjugate_gradient
from medfuse.physics.models.source import SourceModel, spread


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

"""One volume as its scanner measured it, `y = A x + n`, on the scanner's own grid.

The noise is that of `medfuse.physics.scanner_noise`, its level taken from the signal that an estimate predicts. With
`W` the whitening and `B = W A`, the estimate that is corrected by the data is

    x = x0 + P C B' (P B C B' + I)^-1 W (y - A x0)

with `C` a diagonal that says where the error of `x0` is large. Its chi-square is read from one Krylov space for all P.

Where an estimate follows the data by `H`, two numbers tell how far, by a draw `w` of the noise:

    tr H                  the number of parameters: the data are followed until the chi-square is 1 - tr H / n
    tr (I - H)'(I - H)    the mean square of what noise leaves, `(I - H) w`: that of the residual of a true image

They are one for a projection alone. The chi-square that is told is taken by the second, whose mean is 1 (Hastie and
Tibshirani, Generalized Additive Models (1990), section 3.5); the first, never above it, stops before noise is fitted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from medfuse.errors import GeometryError
from medfuse.physics.models.lanczos import lanczos
from medfuse.physics.operators.scanner import ScannerSampling
from medfuse.physics.scanner_noise import ScannerNoise, Whitening, coloured

_STRONGEST = 1e3
_TOLD = 10.0  # strength, of the inverse of the largest eigenvalue, for which the Krylov space must have settled
_FAINT = 1e-3  # of the largest std: no voxel is believed to be more exact


class Corrected(NamedTuple):
    """An estimate after the data had their say.

    Attributes:
        x: The estimate **[*image]**.
        strength: Variance P that the estimate before was given, in squared units of the data; 0: it agreed.
        chi2: Chi-square afterwards, as the Krylov space has it.
        df: Number of parameters, `tr H`, of the number of data: 0..1.
        change: By how much the estimate **[*image]** would be another, were the probe added to the data.
    """

    x: Tensor
    strength: float
    chi2: float
    df: float
    change: Tensor


class VolumeModel:
    """A volume, bound to its data: `x` are images **[*image]**, `y` and `r` are **[*data]**, `e` whitened residuals."""

    def __init__(
        self,
        operator: ScannerSampling,
        y: Tensor,
        noise: ScannerNoise,
        *,
        signal: Tensor | None = None,
        whitening: Whitening | None = None,
    ) -> None:
        """Bind an observation.

        Args:
            operator: `A`.
            y: Data **[*data]**, float32.
            noise: Their noise, in their unit.
            signal: What the data would be without noise, from which noise that grows with it takes its level; the data
                themselves, smoothed by the PSF, where None.
            whitening: That of another model with the same operator and noise, which spares making it.

        Raises:
            GeometryError: Data that are not on the operator's grid.
        """
        if tuple(y.shape) != operator.range.shape:
            raise GeometryError(f"data must be on the operator's grid {operator.range.shape}, got {tuple(y.shape)}.")
        self.operator, self.y, self.noise = operator, y, noise
        self.inside = operator.inside.to(y.device)
        self.whitening = whitening or Whitening(self.inside, noise.voxels(operator.range.spacing))
        self.std = noise.std(y if signal is None else signal)
        self.std = self.std.clamp_min(_FAINT * float(self.std.max()))

    def at(self, x: Tensor) -> VolumeModel:
        """Return the same model with the level of its noise from what an estimate predicts."""
        return self.on(self.operator, self.observe(x))

    def on(self, operator: ScannerSampling, signal: Tensor) -> VolumeModel:
        """Return the model of the same data with another operator on their grid, and the level of a signal."""
        same = operator is self.operator or torch.equal(operator.inside.to(self.inside.device), self.inside)
        whitening = self.whitening if same else None
        return VolumeModel(operator, self.y, self.noise, signal=signal, whitening=whitening)

    def observe(self, x: Tensor) -> Tensor:
        """Return `A x`."""
        return self.operator.forward(x[None, None])[0, 0]

    def back(self, r: Tensor) -> Tensor:
        """Return `A' r`."""
        return self.operator.adjoint(r[None, None])[0, 0]

    def residual(self, x: Tensor) -> Tensor:
        """Return `y - A x` where the data count, else 0."""
        return (self.y - self.observe(x)) * self.inside

    def white(self, r: Tensor) -> Tensor:
        """Return `W r`."""
        return self.whitening.forward(r / self.std)

    def unwhite(self, e: Tensor) -> Tensor:
        """Return `W' e`."""
        return self.whitening.adjoint(e) / self.std

    def chi2(self, x: Tensor, where: Tensor | None = None) -> float:
        """Return `|W (y - A x)|^2` over its expectation: 1 on average for the true image.

        Args:
            x: The image.
            where: Voxels of the data to look at, bool **[*data]**; all where None.
        """
        return self.chi2_of(self.white(self.residual(x)), where)

    def chi2_of(self, e: Tensor, where: Tensor | None = None) -> float:
        """Return the chi-square of a whitened residual; see `chi2`."""
        squares, power = e.double().square(), self.whitening.power
        if where is None:
            return float(squares.sum()) / self.whitening.count
        part = tuple(slice(n) for n in self.y.shape)
        return float(squares[part][where].sum() / power[part][where].double().sum())

    def probe(self, seed: int = 0) -> Tensor:
        """Return a draw of the noise **[*data]**."""
        generator = torch.Generator().manual_seed(seed)
        sigmas = self.noise.voxels(self.operator.range.spacing)
        return self.std * coloured(self.y.shape, sigmas, generator).to(self.std) * self.inside

    def followed(self, draw: Tensor, change: Tensor, where: Tensor | None = None) -> float:
        """Return the degrees of freedom of an estimate, `1 - tr (I - H)'(I - H) / n`: how much noise it takes away.

        Args:
            draw: A draw of the noise **[*data]**.
            change: By how much the estimate changes where the draw is added to the data **[*image]**.
            where: Voxels of the data to look at, bool **[*data]**; all where None.
        """
        noise, left = self.white(draw).double(), self.white((draw - self.observe(change)) * self.inside).double()
        if where is not None:
            part = tuple(slice(n) for n in self.y.shape)
            noise, left = noise[part][where], left[part][where]
        return 1 - float(left.square().sum() / noise.square().sum())

    def corrected(
        self,
        x0: Tensor,
        spread: Tensor | None = None,
        *,
        probe: tuple[Tensor, Tensor] | None = None,
        target: float | None = None,
        tolerance: float = 1e-2,
        iterations: int = 25,
    ) -> Corrected:
        """Return the estimate, corrected so far that its chi-square is what is left of 1 by the degrees of freedom.

        Args:
            x0: The estimate before.
            spread: `C`, the variance of its error up to a factor, **[*image]**; 1 where None.
            probe: A draw of the noise **[*data]**, and by how much `x0` changes where it is added to the data
                **[*image]**: what `x0` itself has taken from them. None: nothing.
            target: Chi-square to stop at, in place of `1 - df / n`.
            tolerance: Of the solution, see `lanczos`.
            iterations: Most applications of `B C B'`.
        """
        c = torch.ones_like(x0) if spread is None else spread
        count = self.whitening.count

        def gram(e: Tensor) -> Tensor:
            return self.white(self.observe(c * self.back(self.unwhite(e))))

        draw, change = probe or (self.probe(), None)
        noise = self.white(draw)
        unseen = noise if change is None else self.white((draw - self.observe(change)) * self.inside)
        change = torch.zeros_like(x0) if change is None else change
        total = float(noise.double().square().sum())
        start = self.white(self.residual(x0))
        before = 1 - float((noise.double() * unseen).sum()) / total
        if self.chi2_of(start) <= (1 - before if target is None else target):
            return Corrected(x0, 0.0, self.chi2_of(start), before, change)
        scale = _scale(gram, start)
        space = lanczos(gram, start, strength=_TOLD / scale, tolerance=tolerance, iterations=iterations)
        probed = lanczos(gram, unseen, strength=_TOLD / scale, tolerance=tolerance, iterations=max(iterations // 2, 1))
        overlaps = torch.tensor([float((noise.double() * q).sum()) for q in probed.basis], dtype=torch.float64)

        def used(p: float) -> float:
            return 1 - float(probed.coefficients(p) @ overlaps) / total

        def excess(p: float) -> float:
            return space.square(p) / count - (1 - used(p) if target is None else target)

        strength = _least(excess, 1e-6 / scale, _STRONGEST / scale)
        x, change = (
            start + strength * c * self.back(self.unwhite(found.solve(strength)))
            for start, found in ((x0, space), (change, probed))
        )
        return Corrected(x, strength, space.square(strength) / count, used(strength), change)


def _scale(apply: Callable[[Tensor], Tensor], start: Tensor) -> float:
    """Return about the largest eigenvalue that matters: the Rayleigh quotient of the start after one application."""
    v = apply(start)
    return float(v.double().square().sum() / (v.double() * start).sum().clamp_min(1e-30))


def _least(excess: Callable[[float], float], low: float, high: float) -> float:
    """Return the smallest strength at which `excess` is not above 0; where there is none, that of the least."""
    grid: list[float] = torch.logspace(math.log10(low), math.log10(high), 73, dtype=torch.float64).tolist()
    values = [excess(p) for p in grid]
    least: float = next((p for p, v in zip(grid, values, strict=True) if v <= 0), grid[values.index(min(values))])
    return least

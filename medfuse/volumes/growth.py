"""How the noise of a volume grows with its signal: as one power of it, or by a table where the data show that.

Robust std of groups of voxels, of equal width in the logarithm of the signal, are compared with those of a draw in the
waves that hold noise alone, which blur both alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medfuse.physics.scanner_noise import coloured, interpolated

_FEWEST, _MANY = 50, 300  # voxels of a group: that tell the power, and that tell a table
_GROUPS, _QUIET, _LOUDER = 10, 0.003, 1.5  # by signal, from this share of the highest; std over that of the air
_REGRESSIONS = 15
_GROWS, _CLEAR = 0.15, 0.12  # power of the signal with which the std grows that is 0, and how near it must be to 1/2
_LEAST_GROUPS, _DRAWS, _ROUNDS = 4, 6, 5
_MISSED = 0.05  # by which part a power with a floor misses the std of a group of phantoms where it is right
_OF_A_POWER, _CLEARLY = 3, 10.0  # parameters; twice the logarithm of how much likelier, beyond what parameters cost

Table = tuple[tuple[float, float], ...]
"""Signal, rising, and the std there, up to a factor."""


class Groups:
    """Voxels by their signal, and the std of the residual in each group that has a say."""

    def __init__(self, residual: Tensor, signal: Tensor, inside: Tensor, left: Tensor) -> None:
        """Prepare.

        Args:
            residual: **[*data]**.
            signal: **[*data]**, of the highest.
            inside: Voxels that count.
            left: What the steps leave of each wave, 0..1.
        """
        self.signal, self._left = signal.clamp_min(1e-6), left
        self._passed = left.square()  # smooth, so that it blurs little
        span = (self.signal / _QUIET).log() / -math.log(_QUIET)
        index = torch.where(inside, (span * _GROUPS).floor().long().clamp(-1, _GROUPS - 1), -1).flatten()
        self._voxels = {k: torch.nonzero(index == k)[:, 0] for k in range(-1, _GROUPS)}
        self._draws: dict[tuple[int, tuple[float, ...]], Tensor] = {}
        self.kept = [k for k in range(_GROUPS) if len(self._voxels[k]) >= _FEWEST]
        if len(self._voxels[-1]) >= _FEWEST:
            air = float(self._stds(residual, self._passed, [-1]))
            louder = self._stds(residual, self._passed, self.kept) > air + math.log(_LOUDER)
            self.kept = [k for k, v in zip(self.kept, louder, strict=True) if v]
        self.seen = self._stds(residual, self._passed, self.kept)
        self.levels = self._medians(self.signal, self.kept).log()
        self.counts = torch.tensor([len(self._voxels[k]) for k in self.kept], dtype=torch.float64)

    def of_draw(self, level: Tensor, seed: int, kernel: Sequence[float] = (0.0, 0.0, 0.0)) -> Tensor:
        """Return the logarithm of the std of each group that a draw of noise shows, as `seen` that of the residual.

        Args:
            level: Its std **[*data]**.
            seed: Of the draw.
            kernel: Std of its kernel along each axis, voxels.
        """
        which = seed, tuple(kernel)
        if which not in self._draws:
            self._draws[which] = coloured(level.shape, kernel, torch.Generator().manual_seed(seed)).to(level)
        return self._stds(self._draws[which] * level, self._passed * self._left.sqrt(), self.kept)

    def _stds(self, values: Tensor, weight: Tensor, of: Sequence[int]) -> Tensor:
        fine = torch.fft.irfftn(torch.fft.rfftn(values) * weight, s=values.shape).abs()
        return self._medians(fine, of).clamp_min(1e-30).log()

    def _medians(self, values: Tensor, of: Sequence[int]) -> Tensor:
        """Return the median of values **[*data]** in each group."""
        flat = values.flatten()
        return torch.tensor([float(flat.index_select(0, self._voxels[k]).median()) for k in of], dtype=torch.float64)


def growth(groups: Groups) -> float:
    """Return the power of the signal with which the std of the residual grows, 0..1."""
    if len(groups.kept) < 2:
        return 0.0
    weights = groups.counts / groups.counts.sum()
    levels = groups.levels - (weights * groups.levels).sum()
    power = 0.5
    for _ in range(_REGRESSIONS):
        off = groups.seen - groups.of_draw(groups.signal**power, 1)
        power += float((weights * levels * off).sum() / (weights * levels.square()).sum().clamp_min(1e-9))
        power = min(max(power, 0.0), 1.0)
    if power < _GROWS:
        return 0.0
    return 0.5 if abs(power - 0.5) < _CLEAR else power


def table(groups: Groups, power: float, kernel: Sequence[float]) -> Table | None:
    """Return the std over the signal as a table that never falls, where the data show that no power of it is right.

    What a power with a floor misses is judged against the scatter of draws, and against what it misses of phantoms on
    which it is right. A table must be likelier by clearly more than its parameters cost (BIC). Between the air and its
    first group it goes on by the power.

    Args:
        groups: Of the residual.
        power: With which the std grows.
        kernel: Std of the kernel of the noise along each axis, voxels.
    """
    many = groups.counts >= _MANY
    x, counts = groups.levels[many], groups.counts[many]
    if len(x) < _LEAST_GROUPS:
        return None

    def off(stds: Tensor) -> tuple[Tensor, Tensor]:
        """Return what stds miss of the groups, and the weight of each."""
        level = interpolated(groups.signal, x.exp(), stds.exp())
        draws = torch.stack([groups.of_draw(level, seed, kernel)[many] for seed in range(1, _DRAWS + 1)])
        scatter = (draws.var(0) * counts).mean() / counts * (1 + 1 / _DRAWS)
        return groups.seen[many] - draws.mean(0), 1 / (scatter + _MISSED**2)

    def chi2(stds: Tensor) -> float:
        missed, weights = off(stds)
        return float((weights * missed.square()).sum())

    plain = free = power * x
    for _ in range(_ROUNDS):
        missed, weights = off(plain)
        plain = plain + _line(x, plain <= plain.min(), missed, weights)
        plain = plain.clamp_min(float(plain[0]))
        missed, weights = off(free)
        free = _rising(free + missed, weights)
    if chi2(plain) - chi2(free) - (len(x) - _OF_A_POWER) * math.log(len(x)) < _CLEARLY:
        return None
    first = (_QUIET, float((free[0] + power * (math.log(_QUIET) - x[0])).exp()))
    return (first, *zip(x.exp().tolist(), free.exp().tolist(), strict=True))


def _line(x: Tensor, low: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted least-squares fit of values by a line over x, and by a constant where x is `low`."""
    rows = torch.stack([(~low).double(), ~low * x, low.double()])
    normal = (rows * weights) @ rows.mT + 1e-6 * torch.eye(3, dtype=rows.dtype)  # where all are low, or all but one
    fit: Tensor = torch.linalg.solve(normal, (rows * weights) @ values) @ rows
    return fit


def _rising(values: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted least-squares fit that never falls (pool adjacent violators)."""
    blocks: list[list[float]] = []  # mean, weight, length
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, v, m), (b, w, n) = blocks[-2:]
            blocks[-2:] = [[(a * v + b * w) / (v + w), v + w, m + n]]
    return torch.tensor([mean for mean, _, length in blocks for _ in range(int(length))], dtype=values.dtype)

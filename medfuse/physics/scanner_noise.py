"""Noise of a reconstructed volume: correlated along each axis, its variance constant or growing with the signal.

    n = S K w,    w white, K a Gaussian of FWHM `fwhm_mm`, its rows of unit norm, S the std of each voxel

    gaussian      S^2 = sigma^2
    poisson       S = max(sigma signal^growth, floor),    growth = 1/2, or what a reconstruction has made of it
    table         S = max(sigma f(signal), floor),        f a table, log-linear between its knots

In the unit of the data; `sigma` of Poisson-like noise is the std at a signal of one unit, `floor` that of the air. With
iterations of EM the std grows up to in proportion to the signal (Barrett, Wilson and Tsui, Phys. Med. Biol. 39 (1994)
833); scatter, attenuation and filters make of it what no one power is, a noise level function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.physics.operators.blur import FWHM_PER_SIGMA
from medfuse.physics.operators.cosine import along_all

KINDS = ("gaussian", "poisson", "table")
_FAINTEST = 1e-2  # power of correlated noise, of its largest, below which a wave holds no noise that can be told
_PROBES = 8
_REACH = 3.5  # std of the kernel to which it is followed
_WIDEST = 30.0  # mm


@dataclass(frozen=True)
class ScannerNoise:
    """How noisy a volume is, in the unit of its data.

    Attributes:
        sigma: Std: of every voxel; for `poisson`, where the signal is one unit; for `table`, that of the table is
            multiplied by it.
        kind: `gaussian`, `poisson` or `table`.
        fwhm_mm: Full width at half maximum of the Gaussian that white noise went through, along each axis of the
            volume, mm, **[3]**; zeros for white noise.
        floor: Std below which it never falls, that of the air; not of `gaussian`.
        growth: Power of the signal with which the std grows, above 0 and at most 1; of `poisson` alone.
        table: Signals, rising, and the std at each, two or more; of `table` alone. Beyond its ends the std is
            that of the nearest.
    """

    sigma: float
    kind: str = "gaussian"
    fwhm_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    floor: float = 0.0
    growth: float = 0.5
    table: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is no noise.

        Raises:
            DegradationError: An unknown kind, a std that is not positive, a width that is negative or above 30 mm.
        """
        if self.kind not in KINDS:
            raise DegradationError(f"the noise of a volume must be {' or '.join(KINDS)}, got {self.kind!r}.")
        if not 0 < self.sigma < math.inf:
            raise DegradationError(
                f"`sigma` of the noise of a volume must be positive and finite, got {self.sigma}; measure it in a "
                "uniform region."
            )
        widths = tuple(float(v) for v in self.fwhm_mm)
        if len(widths) != 3 or not all(0 <= v <= _WIDEST for v in widths):
            raise DegradationError(
                f"`fwhm_mm` of noise must be three numbers from 0 to {_WIDEST:g} mm, got {self.fwhm_mm}; check it."
            )
        if not 0 <= self.floor < math.inf:
            raise DegradationError(f"the floor of noise must be finite and not negative, got {self.floor}.")
        if not 0 < self.growth <= 1:
            raise DegradationError(
                f"`growth` of noise must be above 0 and at most 1, got {self.growth}; 0.5 is that of counts."
            )
        object.__setattr__(self, "fwhm_mm", widths)
        self._check_table()

    def _check_table(self) -> None:
        rows = tuple((float(s), float(v)) for s, v in self.table)
        if bool(rows) != (self.kind == "table"):
            raise DegradationError("noise of `kind: table`, and no other, must come with a table of std; change it.")
        signals = [s for s, _ in rows]
        positive = all(0 < v < math.inf for row in rows for v in row)
        if rows and not (len(rows) > 1 and positive and signals == sorted(set(signals))):
            raise DegradationError(
                "the table of noise must have two rows or more, its signals rising, all positive and finite, got "
                f"signals {signals} and std {[v for _, v in rows]}; change it."
            )
        object.__setattr__(self, "table", rows)

    @classmethod
    def stated(
        cls,
        kind: str,
        sigma: float | Sequence[float] | None,
        fwhm_mm: tuple[float, float, float],
        growth: float | Sequence[float] | None = None,
        signal: float | Sequence[float] | None = None,
    ) -> ScannerNoise:
        """Return noise as a specification states it.

        Args:
            kind: `gaussian`, `poisson` or `table`.
            sigma: Its std; of a table, one at each signal.
            fwhm_mm: Of its kernel.
            growth: Power of the signal; of `poisson` alone, 1/2 where it is None.
            signal: Signals of a table, rising; of `table` alone.

        Raises:
            DegradationError: What does not go together, and what is no noise.
        """
        if growth is not None and kind != "poisson":
            raise DegradationError("`growth` of noise must come with `kind: poisson`; leave it out.")
        if (kind == "table") != (signal is not None):
            raise DegradationError(
                "`signal` of noise must come with `kind: table`, and with it alone: signals, rising, and as `sigma` "
                "the std at each; change it."
            )
        if kind == "table":
            if not (isinstance(sigma, Sequence) and isinstance(signal, Sequence) and len(sigma) == len(signal)):
                raise DegradationError(
                    "`signal` and `sigma` of a table of noise must be lists of one length, got "
                    f"{signal} and {sigma}; change it."
                )
            return cls(1.0, kind, fwhm_mm, table=tuple(zip(signal, sigma, strict=True)))
        if sigma is None or isinstance(sigma, Sequence) or isinstance(growth, Sequence):
            raise DegradationError(
                f"`sigma` and `growth` of {kind} noise must be one number each, got {sigma} and {growth}; lists are of "
                "`kind: table`."
            )
        return cls(sigma, kind, fwhm_mm, growth=0.5 if growth is None else growth)

    @property
    def white(self) -> bool:
        """Whether voxels are independent."""
        return not any(self.fwhm_mm)

    def std(self, signal: Tensor) -> Tensor:
        """Return the std of the noise of a noiseless signal, of its shape."""
        if self.kind == "gaussian":
            return torch.full_like(signal, self.sigma)
        if self.kind == "table":
            knots = torch.tensor(self.table, dtype=torch.float64)
            return (self.sigma * interpolated(signal, knots[:, 0], knots[:, 1])).clamp_min(self.floor)
        return (self.sigma * signal.clamp_min(0.0) ** self.growth).clamp_min(self.floor)

    def scaled(self, unit: float) -> ScannerNoise:
        """Return the same noise of data that are divided by `unit`."""
        power = {"gaussian": 1.0, "poisson": 1 - self.growth, "table": 0.0}[self.kind]
        table = tuple((s / unit, v / unit) for s, v in self.table)
        return replace(self, sigma=self.sigma / unit**power, floor=self.floor / unit, table=table)

    def louder(self, factor: float) -> ScannerNoise:
        """Return the same noise with so many times its std, that of the air included."""
        return replace(self, sigma=self.sigma * factor, floor=self.floor * factor)

    def sample(self, signal: Tensor, spacing: Sequence[float], generator: torch.Generator) -> Tensor:
        """Draw an observation of a noiseless signal **[*data]** of voxels `spacing` mm apart."""
        return signal + self.std(signal) * coloured(signal.shape, self.voxels(spacing), generator).to(signal)

    def voxels(self, spacing: Sequence[float]) -> tuple[float, ...]:
        """Return the std of the kernel along each axis, in voxels."""
        return tuple(w / FWHM_PER_SIGMA / s for w, s in zip(self.fwhm_mm, spacing, strict=True))


def interpolated(signal: Tensor, knots: Tensor, stds: Tensor) -> Tensor:
    """Return the std at a signal, of its shape, from a table **[N]**: linear in both logarithms, held at the ends."""
    x, rows = (v.to(signal.device, torch.float64).log() for v in (knots, stds))
    at = signal.double().clamp(float(knots[0]), float(knots[-1])).log()
    k = torch.searchsorted(x, at.contiguous()).clamp(1, len(x) - 1)
    share = ((at - x[k - 1]) / (x[k] - x[k - 1])).clamp(0, 1)
    return torch.lerp(rows[k - 1], rows[k], share).exp().to(signal)


def coloured(shape: Sequence[int], sigmas: Sequence[float], generator: torch.Generator) -> Tensor:
    """Return normal noise of unit variance **[*shape]**, float32, correlated by a Gaussian of std `sigmas` voxels."""
    margins = [math.ceil(_REACH * s) for s in sigmas]
    big = [n + 2 * m for n, m in zip(shape, margins, strict=True)]
    white = torch.randn((1, 1, *big), generator=generator)
    rows = [_window(n, m, s) for n, m, s in zip(shape, margins, sigmas, strict=True)]
    return along_all(rows, white)[0, 0]


def _window(n: int, margin: int, sigma: float) -> Tensor:
    """Return a Gaussian from n + 2 margin samples to the inner n, rows of unit norm."""
    off = torch.arange(n + 2 * margin, dtype=torch.float64) - margin - torch.arange(n, dtype=torch.float64)[:, None]
    rows = torch.exp(-0.5 * (off / max(sigma, 1e-3)).square())
    return (rows / rows.square().sum(1, keepdim=True).sqrt()).float()


class Whitening:
    """`W` with `W n` white for correlated noise `n` of unit variance at each voxel: `F' Lambda^-1/2 F T`.

    `F` is the Fourier transform, continued by zeros; `Lambda` the power of the noise, of which waves below 1 % of the
    largest are left out, for there rounding and the model's own error would count as much as noise. `T` is the mask of
    the voxels that count; for correlated noise it rises softly, within the width of the kernel: a hard border would be
    taken for detail. `count` is the expected square of `W n`.
    """

    def __init__(self, inside: Tensor, sigmas: Sequence[float]) -> None:
        """Prepare.

        Args:
            inside: Voxels that count, bool **[*data]**.
            sigmas: Std of the kernel of the noise along each axis, voxels; zeros for white noise.
        """
        self.shape = tuple(inside.shape)
        self._white = not any(sigmas)
        self.mask = inside.to(torch.float32)
        if not self._white:
            self.mask = _soft(self.mask, sigmas)
            margins = [math.ceil(_REACH * s) for s in sigmas]
            self._big = [_smooth_size(n + 2 * m) for n, m in zip(self.shape, margins, strict=True)]
            self._filter = self._inverse(sigmas).to(inside.device)
        self.power = self._expected(sigmas)
        self.count = float(self.power.double().sum())

    def forward(self, n: Tensor) -> Tensor:
        """Return `W n` **[*white]** of residuals in units of their std **[*data]**; the first voxels are those of n."""
        if self._white:
            return n * self.mask.to(n)
        white: Tensor = torch.fft.irfftn(torch.fft.rfftn(n * self.mask.to(n), s=self._big) * self._filter, s=self._big)
        return white

    def adjoint(self, e: Tensor) -> Tensor:
        """Return `W' e` **[*data]**."""
        if self._white:
            return e * self.mask.to(e)
        full: Tensor = torch.fft.irfftn(torch.fft.rfftn(e, s=self._big) * self._filter, s=self._big)
        return full[tuple(slice(n) for n in self.shape)] * self.mask.to(e)

    def _inverse(self, sigmas: Sequence[float]) -> Tensor:
        """Return `Lambda^-1/2` on the half of the frequencies that a real transform keeps; 0 where it is left out."""
        total = torch.zeros(())
        for d, (n, s) in enumerate(zip(self._big, sigmas, strict=True)):
            omega = 2 * math.pi * (torch.fft.rfftfreq(n) if d == 2 else torch.fft.fftfreq(n))
            at = torch.arange(-12 * math.ceil(s) - 1, 12 * math.ceil(s) + 2)
            kernel = torch.exp(-0.5 * (at / max(s, 1e-3)) ** 2)
            kernel = kernel / kernel.square().sum().sqrt()
            response = (torch.cos(omega[:, None] * at) * kernel).sum(1).clamp_min(1e-12)
            total = total + response.log().reshape([-1 if k == d else 1 for k in range(3)])
        amplitude = total.exp()
        kept = amplitude.square() >= _FAINTEST * amplitude.square().max()
        return torch.where(kept, 1 / amplitude, 0.0)

    def _expected(self, sigmas: Sequence[float]) -> Tensor:
        """Return the mean square of `W n` at each voxel, from draws of the noise; exact for white noise."""
        if self._white:
            return self.mask
        generator = torch.Generator().manual_seed(0)
        draws = [coloured(self.shape, sigmas, generator).to(self.mask) for _ in range(_PROBES)]
        return torch.stack([self.forward(n).square() for n in draws]).mean(0)


def _soft(mask: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Return a mask that rises from 0 at its border to 1 within about the width of a Gaussian of std `sigmas`."""
    rows = []
    for n, s in zip(mask.shape, sigmas, strict=True):
        off = torch.arange(n, dtype=torch.float64) - torch.arange(n, dtype=torch.float64)[:, None]
        row = torch.exp(-0.5 * (off / max(s, 0.5)).square())
        rows.append((row / row[n // 2].sum()).to(mask))
    return (2 * along_all(rows, mask[None, None])[0, 0] - 1).clamp(0, 1) * mask


def _smooth_size(n: int) -> int:
    """Return the next size with no other prime factors than 2, 3 and 5."""
    while True:
        rest = n
        for p in (2, 3, 5):
            while rest % p == 0:
                rest //= p
        if rest == 1:
            return n
        n += 1

"""The noise of a volume, measured from what an estimate of its data alone leaves of them.

The residual of ten Landweber steps holds little but noise in the waves that hardly pass the PSF. What the steps leave
of a wave is seen on a draw of noise that is added to the data. Whittle's likelihood then finds the spectrum of the
noise:

    E |F w r / s|^2 = T (|F w|^2 * sigma^2 N + c H^2 / k^4)

`r` the residual, `s` the level of the noise, `w` a taper over the tissue, `T` what the steps leave, `*` convolution,
`N` the spectrum of noise whose correlation falls as `rho^(h^2)` with the distance of h voxels, `H` the PSF's transfer,
and `1 / k^4` the power of an image of edges at the wave `k`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.physics.operators.blur import FWHM_PER_SIGMA
from medfuse.physics.operators.scanner import ScannerSampling
from medfuse.physics.scanner_noise import ScannerNoise, coloured, interpolated
from medfuse.volumes.growth import Groups, growth, table
from medfuse.volumes.level import no_louder
from medfuse.volumes.proposals import Landweber, landweber

STEPS, _ROUNDS = 10, 20
_FAINT, _TISSUE, _FEWEST = 0.02, 0.3, 500  # share of the highest signal, and of the median of what is above; voxels
_WAVES = 20  # that tell five numbers
_LEFT = 0.4  # share of a wave's noise that the steps leave, from which it counts
_FAINTEST = 0.01  # of the noise's largest power
_STEP = 1e-3  # of finite differences
_CLIPPED = 4.0  # robust std
_MOST = 0.94  # correlation of neighbours: a kernel of 4.7 voxels
_LEAST, _COLOURED = 0.08, 0.3  # below which it is none, and above which white noise is no model of it


def measure_noise(operator: ScannerSampling, y: Tensor, begun: Landweber | None = None) -> ScannerNoise:
    """Return the noise of data **[*data]**: its level, how it grows with the signal, see `growth`, and its kernel.

    Args:
        operator: `A`.
        y: The data.
        begun: Ten Landweber steps of them, where they were made.

    Raises:
        DegradationError: Less than 500 voxels of tissue, or no noise.
    """
    inside = operator.inside.to(y.device)
    x, step = begun or landweber(operator, y[None], STEPS)
    signal = operator.forward(x[:, None])[0, 0].clamp_min(0)
    residual = (y - signal) * inside
    top = float(torch.quantile(signal[inside][::5], 0.99))
    active = inside & (signal > _FAINT * top)
    tissue = active & (signal > _TISSUE * signal[active].median())
    if int(tissue.sum()) < _FEWEST:
        raise DegradationError(
            "The noise on the source's own grid must be stated where too little tissue is there to measure it, got "
            f"{int(tissue.sum())} voxels; in place of --psf write `grid: native`, `psf` and "
            "`noise: {sigma: ..., unit: input}` into a degradation."
        )
    rough = float(residual[tissue].square().mean().sqrt())
    if not rough > 0:
        raise DegradationError("The noise must be stated where the volume shows none, got 0; add `noise` to it.")
    taper, generator = _taper(tissue), torch.Generator().manual_seed(0)

    def kept(draw: Tensor) -> Tensor:
        other = landweber(operator, (y + draw)[None], STEPS, step=step).x
        after = (y + draw - operator.forward(other[:, None])[0, 0]) * inside - residual
        return _smooth(_power(after * taper)) / _smooth(_power(draw * taper)).clamp_min(1e-30)

    left = kept(rough * coloured(y.shape, (0.0, 0.0, 0.0), generator).to(y) * inside)
    groups = Groups(residual, signal / top, inside, left.clamp(0, 1))
    power = growth(groups)

    def fitted(level: Tensor, left: Tensor) -> tuple[float, list[float]]:
        seen = _power(_clipped(residual / level * tissue, tissue) * taper)
        sigma, neighbours = _fitted(seen, left, _image(operator), taper)
        if max(neighbours) > _COLOURED:  # of a wave where the draw hardly has power, its others tell what is left
            left = kept(sigma * level * coloured(y.shape, _kernel(neighbours), generator).to(y) * inside)
            sigma, neighbours = _fitted(seen, left, _image(operator), taper)
        return sigma, neighbours

    sigma, neighbours = fitted(signal.clamp_min(1e-3 * float(signal.max())) ** power, left)
    knots = table(groups, power, _kernel(neighbours))
    if knots is not None:
        signals, stds = torch.tensor(knots, dtype=torch.float64).mT
        sigma, neighbours = fitted(interpolated(signal, signals * top, stds), left)
        knots = tuple((float(s) * top, float(v) * sigma) for s, v in zip(signals, stds, strict=True))
    x_mm, y_mm, z_mm = (_width(rho) * s for rho, s in zip(neighbours, operator.range.spacing, strict=True))
    kernel_mm = (x_mm, y_mm, z_mm)
    if knots is not None:
        found = ScannerNoise(1.0, "table", kernel_mm, table=knots)
    elif power:
        found = ScannerNoise(sigma, "poisson", kernel_mm, growth=power)
    else:
        found = ScannerNoise(sigma, "gaussian", kernel_mm)
    return no_louder(operator, y, found, Landweber(x, step), STEPS, tissue)


def _kernel(neighbours: Sequence[float]) -> list[float]:
    """Return the std of the kernel, voxels, that correlates neighbours so along each axis."""
    return [_width(rho) / FWHM_PER_SIGMA for rho in neighbours]


def _fitted(seen: Tensor, left: Tensor, image: Tensor, taper: Tensor) -> tuple[float, list[float]]:
    """Return the std of the noise, and its correlation between neighbours along each axis, of highest likelihood.

    Fisher's scoring in `log sigma^2`, the correlations and `c`; the last four stay above 0.

    Args:
        seen: Power of the tapered residual.
        left: What the steps leave of each wave.
        image: Power of an image as the scanner sees it, up to a factor.
        taper: **[*data]**.
    """
    seen, left, image = (v.cpu().double() for v in (seen, left, image))
    correlation = torch.fft.irfftn(_power(taper), s=taper.shape).cpu().double()
    strong = left > _LEFT
    variance = float((seen / left / _expected(correlation, [0.0] * 3))[strong].mean())
    at, share = [0.1, 0.1, 0.1], 0.0
    image = image / image[strong].mean() * variance * float(correlation.max())
    for _ in range(_ROUNDS):
        power = _expected(correlation, at)
        kept = strong & (power > _FAINTEST * power.max())
        if int(kept.sum()) < _WAVES:  # noise so smooth that the PSF passes all of its waves: it stays as it was found
            break
        noise = variance * power
        slopes = [variance * (_expected(correlation, _more(at, d)) - power) / _STEP for d in range(3)]
        whole = (noise + share * image)[kept]
        design = torch.stack([v[kept] / whole for v in (noise, *slopes, image)])
        step = _bounded(design, (seen / left)[kept] / whole - 1, [-1.0, *(-v for v in at), -share])
        variance *= math.exp(min(step[0], 1.0))
        at = [min(v + min(b, 0.1), _MOST) for v, b in zip(at, step[1:4], strict=True)]
        share += step[4]
    return math.sqrt(variance), at


def _more(correlations: list[float], axis: int) -> list[float]:
    return [v + _STEP * (d == axis) for d, v in enumerate(correlations)]


def _bounded(design: Tensor, residual: Tensor, least: list[float]) -> list[float]:
    """Return the least-squares fit of a residual **[N]** by rows **[K, N]**, no coefficient below its least."""
    scale = design.square().mean(1).sqrt().clamp_min(1e-30)
    rows = design / scale[:, None]
    found = torch.zeros(len(rows), dtype=torch.float64)
    free = torch.ones(len(rows), dtype=torch.bool)
    low = torch.tensor(least, dtype=torch.float64) * scale
    while True:
        part = rows[free]
        normal = part @ part.mT + 1e-9 * len(residual) * torch.eye(len(part), dtype=torch.float64)
        found[free] = torch.linalg.solve(normal, part @ (residual - found[~free] @ rows[~free]))
        under = free & (found < low)
        if not bool(under.any()):
            return (found / scale).tolist()
        found[under] = low[under]
        free &= ~under


def _expected(correlation: Tensor, neighbours: list[float]) -> Tensor:
    """Return the expected power of tapered noise of unit variance, from the correlation of the taper with itself.

    Noise through a Gaussian kernel is correlated by `rho^(h^2)` at a lag of h voxels, rho that of neighbours.
    """
    c = correlation
    for axis, rho in enumerate(neighbours):
        lag = torch.fft.fftfreq(c.shape[axis], 1 / c.shape[axis])
        c = c * (rho ** lag.square()).to(c).reshape([-1 if k == axis else 1 for k in range(3)])
    power: Tensor = torch.fft.rfftn(c).real.clamp_min(1e-9 * float(c.max()))
    return power


def _image(operator: ScannerSampling) -> Tensor:
    """Return the power of an image of edges, `|k|^-4`, as the PSF leaves it, up to a factor."""
    shape, power, square = operator.range.shape, torch.ones(()), torch.zeros(())
    for axis, (width, spacing) in enumerate(zip(operator.fwhm_mm, operator.range.spacing, strict=True)):
        frequencies = torch.fft.rfftfreq if axis == 2 else torch.fft.fftfreq
        k = (2 * math.pi * frequencies(shape[axis]) / spacing).reshape([-1 if d == axis else 1 for d in range(3)])
        power = power * torch.exp(-(k * width / FWHM_PER_SIGMA).square())
        square = square + k.square()
    return power / square.clamp_min(1e-6).square()


def _width(rho: float) -> float:
    """Return the FWHM, voxels, of the Gaussian kernel, sampled at voxels, that correlates neighbours so."""
    if rho < _LEAST:
        return 0.0
    at = torch.arange(-20, 21, dtype=torch.float64)
    low, high = 0.2, 3.0  # std, voxels
    for _ in range(30):
        middle = (low + high) / 2
        kernel = torch.exp(-0.5 * (at / middle).square())
        narrow = float((kernel[1:] * kernel[:-1]).sum() / kernel.square().sum()) < rho
        low, high = (middle, high) if narrow else (low, middle)
    return FWHM_PER_SIGMA * low


def _taper(tissue: Tensor) -> Tensor:
    """Return a soft mask within the tissue."""
    core = 1 - F.max_pool3d(F.pad(1 - tissue.float()[None, None], [1] * 6, value=1.0), 3, 1)
    core = core if float(core.sum()) > _FEWEST / 4 else tissue.float()[None, None]
    return F.avg_pool3d(core, 3, 1, 1)[0, 0]


def _power(values: Tensor) -> Tensor:
    smooth: Tensor = torch.fft.rfftn(values).abs().square()
    return smooth


def _smooth(power: Tensor) -> Tensor:
    """Return a mean over neighbouring waves; along an axis of fewer than three there are none."""
    sizes = [3 if n > 2 else 1 for n in power.shape]
    around = [n // 2 for n in sizes]
    return F.avg_pool3d(power[None, None], sizes, 1, around, count_include_pad=False)[0, 0]


def _clipped(values: Tensor, where: Tensor) -> Tensor:
    most = _CLIPPED * float(values[where].abs().median()) / 0.6745
    return values.clamp(-most, most) if most > 0 else values

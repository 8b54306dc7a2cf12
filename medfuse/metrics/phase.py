"""Phase congruency, and the fusion metric that compares it."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from medfuse.metrics.filters import as_levels, gaussian_window, magnitude, ratio, root, smooth_same, total

_SCALES, _ORIENTATIONS = 4, 6
_WAVELENGTH, _MULTIPLE, _BANDWIDTH = 3.0, 2.1, 0.55  # of the finest filter in px, between scales, of each filter
_SPREAD = math.pi / _ORIENTATIONS / 1.2  # std of a filter over angles
_NOISE_STDS, _NOISE_SHARE = 2.0, 1.7  # threshold on the energy: mean plus 2 std of that of noise, over 1.7
_CUTOFF, _GAIN = 0.5, 10.0  # weight of the width of the spectrum
_EPSILON = 1e-4
_FEATURE = 0.1  # phase congruency of a feature


def phase_congruency_quality(source1: Tensor, source2: Tensor, fused: Tensor, *, data_range: float) -> Tensor:
    """Return Q_P: local correlation of phase congruency, its maximum and its minimum moment, with those of the sources.

    At each pixel counts the best of three: source 1, source 2, and the stronger of both; only features of the sources
    count. The three means are multiplied.

    Args:
        source1: **[B or 1, 1, H, W]**, at least 11 x 11.
        source2: **[B or 1, 1, H, W]**.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images.

    Returns:
        **[B]**, at most 1; below 1 even for equal images, as features are cut out of the sources and not of the fused
        image. 0 where the sources have no feature.

    Reference:
        Zhao, Laganiere and Liu, Performance assessment of combinative pixel-level image fusion based on an absolute
        feature measurement (IJICIC 2007).
    """
    a, b, f = as_levels(data_range, 11, source1=source1, source2=source2, fused=fused)
    of_a, of_b, of_f = (phase_congruency(x) for x in (a, b, f))
    first = of_a[0] > of_b[0]
    stronger = [torch.where(first, x, y) for x, y in zip(of_a, of_b, strict=True)]
    marks = [(x[0] > _FEATURE).to(f) for x in (of_a, of_b, stronger)]
    features = total(marks[2]).clamp_min(1)
    value = f.new_ones(())
    for y, *candidates in zip(of_f, of_a, of_b, stronger, strict=True):
        scores = [_local_correlation(x * mark, y) * mark for x, mark in zip(candidates, marks, strict=True)]
        best = torch.maximum(torch.maximum(scores[0], scores[1]), scores[2])
        value = value * (total(best) / features)
    return value


def phase_congruency(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the phase congruency of an image, and its maximum and minimum moment over orientations.

    Args:
        x: **[B, 1, H, W]**, 0..255.

    Returns:
        Three maps **[B, 1, H, W]**; the first in 0..1.

    Reference:
        Kovesi, Image features from phase congruency (Videre 1999); 4 scales and 6 orientations of log-Gabor filters,
        the threshold on noise from the finest.
    """
    spectrum = torch.fft.fft2(x)
    energies = amplitudes = cxx = cyy = cxy = torch.zeros_like(x)
    for k, bank in enumerate(_bank(x.shape[2], x.shape[3], x.device)):
        energy, amplitude = _oriented_energy(spectrum, bank)
        cos, sin = math.cos(k * math.pi / _ORIENTATIONS), math.sin(k * math.pi / _ORIENTATIONS)
        congruency = ratio(energy, amplitude, 0.0)
        energies, amplitudes = energies + energy, amplitudes + amplitude
        cxx, cyy = cxx + (congruency * cos).square(), cyy + (congruency * sin).square()
        cxy = cxy + congruency.square() * cos * sin
    cxx, cyy, cxy = cxx / (_ORIENTATIONS / 2), cyy / (_ORIENTATIONS / 2), cxy / _ORIENTATIONS
    spread = magnitude(cxy, cxx - cyy) + _EPSILON
    return energies / (amplitudes + _EPSILON), (cyy + cxx + spread) / 2, (cyy + cxx - spread) / 2


def _oriented_energy(spectrum: Tensor, bank: _Bank) -> tuple[Tensor, Tensor]:
    """Return the energy of one orientation above that of noise, and the sum of its amplitudes, **[B, 1, H, W]**."""
    response = torch.fft.ifft2(spectrum * bank.filters)  # [B, scale, H, W]
    amplitude = response.abs()
    summed = response.sum(1, keepdim=True)
    length = summed.abs() + _EPSILON
    even, odd = summed.real / length, summed.imag / length
    along = response.real * even + response.imag * odd
    across = (response.real * odd - response.imag * even).abs()
    energy = (along - across).sum(1, keepdim=True)

    power = _median(amplitude[:, :1].square())
    tau = root(power / math.log(2) / bank.finest * bank.propagated)
    threshold = tau * (math.sqrt(math.pi / 2) + _NOISE_STDS * math.sqrt(2 - math.pi / 2)) / _NOISE_SHARE
    energy = (energy - threshold).clamp_min(0)
    sum_of_amplitudes = amplitude.sum(1, keepdim=True)
    width = sum_of_amplitudes / (amplitude.amax(1, keepdim=True) + _EPSILON) / _SCALES
    return energy * torch.sigmoid((width - _CUTOFF) * _GAIN), sum_of_amplitudes


class _Bank:
    """Filters of one orientation **[scale, H, W]**, and what they do to white noise."""

    def __init__(self, filters: Tensor) -> None:
        self.filters = filters
        self.finest = float(filters[0].square().sum())
        kernels = torch.fft.ifft2(filters).real * math.sqrt(filters[0].numel())
        self.propagated = float(kernels.sum(0).square().sum())


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _bank(height: int, width: int, device: torch.device) -> tuple[_Bank, ...]:
    """Return the log-Gabor filters of every orientation."""
    v = torch.fft.fftfreq(height, dtype=torch.float64, device=device)[:, None]
    u = torch.fft.fftfreq(width, dtype=torch.float64, device=device)[None, :]
    radius = torch.hypot(v, u)
    low_pass = 1 / (1 + (radius / 0.45) ** 30)
    radius[0, 0] = 1.0
    wavelengths = [_WAVELENGTH * _MULTIPLE**s for s in range(_SCALES)]
    radial = torch.stack([torch.exp(-((radius * w).log() ** 2) / (2 * math.log(_BANDWIDTH) ** 2)) for w in wavelengths])
    radial = radial * low_pass
    radial[:, 0, 0] = 0
    angle = torch.atan2(-v, u.expand(height, width))
    banks = []
    for k in range(_ORIENTATIONS):
        turn = angle - k * math.pi / _ORIENTATIONS
        away = torch.atan2(turn.sin(), turn.cos())
        banks.append(_Bank(radial * torch.exp(-(away**2) / (2 * _SPREAD**2))))
    return tuple(banks)


def _local_correlation(x: Tensor, y: Tensor) -> Tensor:
    window = gaussian_window(11, 1.5)
    mx, my = smooth_same(x, window), smooth_same(y, window)
    vx, vy = smooth_same(x * x, window) - mx * mx, smooth_same(y * y, window) - my * my
    common = smooth_same(x * y, window) - mx * my
    return (common + _EPSILON) / (root((vx * vy).abs()) + _EPSILON)


def _median(x: Tensor) -> Tensor:
    """Return the median of each sample, the mean of both values in the middle, **[B, 1, 1, 1]**."""
    ordered = x.flatten(1).sort(1).values
    n = ordered.shape[1]
    return ((ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2)[:, None, None, None]

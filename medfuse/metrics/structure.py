"""Structure and error: SSIM, MS-SSIM, two fusion metrics made of SSIM maps, and PSNR from MONAI's squared error.

The SSIM is MONAI's in double precision: in the single precision of `SSIMMetric`, which cancels where it is bright and
flat, the fourth digit of a low value is lost.
"""

from __future__ import annotations

import math

import torch
from monai.metrics.regression import compute_mean_error_metrics
from torch import Tensor

from medfuse.metrics.filters import PEAK, as_levels, gaussian_window, mean, ratio, smooth, total

_WINDOW, _STD = 11, 1.5
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli and Bovik (2003), weights of the five scales
_HIGHEST_PSNR = 100.0
_ROUNDING = 1e-9  # variance on 0..255, of which less is a rounding error of float64
_SWITCH = 0.75  # Yang et al.: similarity of the sources above which both count


def structural_similarity(reference: Tensor, image: Tensor, *, data_range: float) -> Tensor:
    """Return the mean SSIM, valid part only, with a Gaussian window of 11 x 11, std 1.5.

    Args:
        reference: **[B or 1, 1, H, W]**, at least 11 x 11.
        image: **[B, 1, H, W]**.
        data_range: Full range of the images.

    Returns:
        **[B]**, -1..1.

    Reference:
        Wang et al., Image quality assessment: from error visibility to structural similarity (TIP 2004).
    """
    x, y = as_levels(data_range, _WINDOW, reference=reference, image=image)
    return mean(_similarity(x, y).ssim)


def multi_scale_structural_similarity(reference: Tensor, image: Tensor, *, data_range: float) -> Tensor:
    """Return MS-SSIM over five scales, or fewer, with weights normalised again, below 176 x 176.

    Args:
        reference: **[B or 1, 1, H, W]**, at least 11 x 11.
        image: **[B, 1, H, W]**.
        data_range: Full range of the images.

    Returns:
        **[B]**, 0..1; scales of negative mean count as 0.

    Reference:
        Wang, Simoncelli and Bovik, Multiscale structural similarity for image quality assessment (Asilomar 2003).
    """
    x, y = as_levels(data_range, _WINDOW, reference=reference, image=image)
    count = max(n for n in range(1, len(_SCALES) + 1) if n == 1 or min(x.shape[2:]) >= _WINDOW * 2 ** (n - 1))
    weights = [w / sum(_SCALES[:count]) for w in _SCALES[:count]]
    value = x.new_ones(())
    for scale, weight in enumerate(weights, start=1):
        maps = _similarity(x, y)
        part = mean(maps.ssim if scale == count else maps.contrast)
        value = value * part.clamp_min(0) ** weight
        x, y = _halve(x), _halve(y)
    return value


def peak_signal_to_noise_ratio(reference: Tensor, image: Tensor, *, data_range: float) -> Tensor:
    """Return the PSNR in dB, from MONAI's mean squared error; at most 100, for equal images too.

    Args:
        reference: **[B or 1, 1, H, W]**.
        image: **[B, 1, H, W]**.
        data_range: Full range of the images, which is the peak.

    Returns:
        **[B]**, dB.
    """
    return _psnr(squared_error(reference, image, data_range=data_range))


def mean_psnr(source1: Tensor, source2: Tensor, fused: Tensor, *, data_range: float) -> Tensor:
    """Return the PSNR of the mean of both squared errors in dB, as the literature of fusion has it; at most 100.

    Args:
        source1: **[B or 1, 1, H, W]**.
        source2: **[B or 1, 1, H, W]**.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images, which is the peak.

    Returns:
        **[B]**, dB.
    """
    errors = [squared_error(s, fused, data_range=data_range) for s in (source1, source2)]
    return _psnr((errors[0] + errors[1]) / 2)


def squared_error(reference: Tensor, image: Tensor, *, data_range: float) -> Tensor:
    """Return the mean squared error on 0..255, **[B]**, of images **[B or 1, 1, H, W]**."""
    x, y = as_levels(data_range, reference=reference, image=image)
    return compute_mean_error_metrics(y, x, torch.square)[:, 0]


def piella_quality(source1: Tensor, source2: Tensor, fused: Tensor, *, data_range: float) -> Tensor:
    """Return Q_W: SSIM with each source, weighed at each place by the sources' variances.

    Args:
        source1: **[B or 1, 1, H, W]**, at least 11 x 11.
        source2: **[B or 1, 1, H, W]**.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images.

    Returns:
        **[B]**, -1..1; NaN where both sources are flat.

    Reference:
        Piella and Heijmans, A new quality metric for image fusion (ICIP 2003), the weighted form.
    """
    a, b, f = as_levels(data_range, _WINDOW, source1=source1, source2=source2, fused=fused)
    sources = _similarity(a, b)
    salience = torch.maximum(sources.variance1, sources.variance2)
    share = _share(sources.variance1, sources.variance2)
    quality = share * _similarity(f, a).ssim + (1 - share) * _similarity(f, b).ssim
    return ratio(total(salience * quality), total(salience).expand(len(quality)))


def yang_quality(source1: Tensor, source2: Tensor, fused: Tensor, *, data_range: float) -> Tensor:
    """Return Q_Y: where the sources agree, SSIM with both by their variances; elsewhere the better of both.

    Flat places count as well, with equal shares; the toolbox of Liu et al. gives NaN there.

    Args:
        source1: **[B or 1, 1, H, W]**, at least 7 x 7.
        source2: **[B or 1, 1, H, W]**.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images.

    Returns:
        **[B]**, -1..1.

    Reference:
        Yang, Zhang, Wang and Liu, A novel similarity based quality metric for image fusion (Inf. Fusion 2008).
    """
    a, b, f = as_levels(data_range, 7, source1=source1, source2=source2, fused=fused)
    nearly_none = (2e-16, 2e-16)
    sources = _similarity(a, b, 7, nearly_none)
    share = _share(sources.variance1, sources.variance2)
    with_a, with_b = (_similarity(s, f, 7, nearly_none).ssim for s in (a, b))
    both = share * with_a + (1 - share) * with_b
    return mean(torch.where(sources.ssim >= _SWITCH, both, torch.maximum(with_a, with_b)))


class _Maps:
    """SSIM, its contrast and structure part, and the variances, as maps."""

    def __init__(self, x: Tensor, y: Tensor, window: list[float], constants: tuple[float, float]) -> None:
        c1, c2 = constants
        mx, my = smooth(x, window), smooth(y, window)
        vx, vy = smooth(x * x, window) - mx * mx, smooth(y * y, window) - my * my
        flat_x, flat_y = vx < _ROUNDING, vy < _ROUNDING  # else the quotient of two rounding errors where c2 is small
        vx, vy = vx.masked_fill(flat_x, 0), vy.masked_fill(flat_y, 0)
        covariance = (smooth(x * y, window) - mx * my).masked_fill(flat_x | flat_y, 0)
        self.contrast = (2 * covariance + c2) / (vx + vy + c2)
        self.ssim = (2 * mx * my + c1) / (mx * mx + my * my + c1) * self.contrast
        self.variance1, self.variance2 = vx, vy


def _similarity(
    x: Tensor,
    y: Tensor,
    size: int = _WINDOW,
    constants: tuple[float, float] = ((0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2),
) -> _Maps:
    return _Maps(x, y, gaussian_window(size, _STD), constants)


def _share(variance1: Tensor, variance2: Tensor) -> Tensor:
    """Return the share of the first variance in their sum, a half where both are 0."""
    return ratio(variance1, variance1 + variance2, 0.5)


def _halve(x: Tensor) -> Tensor:
    """Average pairs of neighbours and keep every second: the first of each axis with itself, then 2 with 3, ..."""
    for axis in (-2, -1):
        n = (x.shape[axis] + 1) // 2
        padded = torch.cat([x.narrow(axis, 0, 1), x], axis)
        even = torch.arange(0, 2 * n, 2, device=x.device)
        x = (padded.index_select(axis, even) + padded.index_select(axis, even + 1)) / 2
    return x


def _psnr(error: Tensor) -> Tensor:
    lowest = PEAK**2 * 10 ** (-_HIGHEST_PSNR / 10)
    return 20 * math.log10(PEAK) - 10 * torch.log10(error.clamp_min(lowest))

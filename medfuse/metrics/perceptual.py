"""Models of vision: local contrast as the eye's sensitivity weighs it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.metrics.filters import (
    as_levels,
    filter_spectrum,
    frequency_radius,
    gaussian_window,
    magnitude,
    mean,
    ratio,
    smooth_same,
    sobel,
    stretch,
    total,
)

_BLOCK = 16
_SALIENCE = 5  # exponent of the gradient in the weight of a block


def chen_blum_quality(source1: Tensor, source2: Tensor, fused: Tensor, *, data_range: float) -> Tensor:
    """Return Q_CB: local contrast that is preserved, weighed by the squared contrast of the sources.

    Images are stretched to 0..255 and rounded, then weighed with a contrast sensitivity function whose frequencies
    are cycles per 30th of the image: the size of the image matters.

    Args:
        source1: **[B or 1, 1, H, W]**.
        source2: **[B or 1, 1, H, W]**.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images.

    Returns:
        **[B]**, 0..1. Far from anything, on a black background, the local contrast is a ratio of two rounding errors,
        which may move the third digit. NumPy's transform does the filtering, sample by sample, so that at least
        the same images give the same value.

    Reference:
        Chen and Blum, A new automated quality assessment algorithm for image fusion (Image Vis. Comput. 2009), with
        the constants of the toolbox of Liu et al. (TPAMI 2012).
    """
    images = as_levels(data_range, source1=source1, source2=source2, fused=fused)
    a, b, f = (_masked_contrast(stretch(x)) for x in images)
    share = ratio(a * a, a * a + b * b, 0.5)
    kept_a, kept_b = (ratio(torch.minimum(s, f), torch.maximum(s, f), 1.0) for s in (a, b))
    return mean(share * kept_a + (1 - share) * kept_b)


def chen_varshney_error(source1: Tensor, source2: Tensor, fused: Tensor, *, data_range: float) -> Tensor:
    """Return Q_CV: squared differences as the eye sees them, in blocks of 16 x 16, weighed by gradients^5. An error.

    Args:
        source1: **[B or 1, 1, H, W]**.
        source2: **[B or 1, 1, H, W]**.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images; each is stretched to 0..255 and rounded first.

    Returns:
        **[B]**, at least 0, lower is better; NaN where both sources are zero.

    Reference:
        Chen and Varshney, A human perception inspired quality metric for image fusion (Inf. Fusion 2007), with Mannos'
        and Sakrison's contrast sensitivity.
    """
    a, b, f = (stretch(x) for x in as_levels(data_range, source1=source1, source2=source2, fused=fused))
    height, width = f.shape[2:]
    radius = frequency_radius(height, width, (height / 8, width / 8), f.device)
    sensitivity = 2.6 * (0.0192 + 0.144 * radius) * torch.exp(-((0.144 * radius) ** 1.1))
    error = weight = f.new_zeros(())
    for source in (a, b):
        salience = _blocks(magnitude(*sobel(source)) ** _SALIENCE) * _BLOCK**2
        seen = _blocks(filter_spectrum(source - f, sensitivity).square())
        error, weight = error + total(salience * seen), weight + total(salience)
    return ratio(error, weight.expand_as(error))


def _masked_contrast(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    v, u = np.fft.fftfreq(height) * 2 * (height / 30), np.fft.fftfreq(width) * 2 * (width / 30)
    r = np.hypot(v[:, None], u[None, :])
    sensitivity = np.exp(-((r / 15.3870) ** 2)) - 0.7622 * np.exp(-((r / 1.3456) ** 2))
    samples = x.detach().cpu().numpy()
    x = torch.from_numpy(np.stack([np.fft.ifft2(np.fft.fft2(s) * sensitivity).real for s in samples])).to(x.device)
    narrow, wide = (smooth_same(x, gaussian_window(31, std, normalised=False)) for std in (2.0, 4.0))
    contrast = (ratio(narrow, wide, 1.0) - 1).abs()
    return contrast**3 / (contrast**2 + 1e-4)


def _blocks(x: Tensor) -> Tensor:
    """Return the means of blocks; those at the far borders are filled with zeros."""
    height, width = x.shape[2:]
    return F.avg_pool2d(F.pad(x, (0, -width % _BLOCK, 0, -height % _BLOCK)), _BLOCK)

"""Classical restoration of one channel that knows what happened, as a counterpart where none was published.

Its parameters are those of the best mean PSNR of the green channel on the very pairs on which it is scored: they favour
the counterpart.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import denoise_nl_means, wiener

Image = NDArray[np.float64]

_BLUR = 2.0  # px
_NOISE, _COMPOSITE_NOISE = math.sqrt(0.003), math.sqrt(0.001)
_PAD = 32


def _without_noise(image: Image, sigma: float, strength: float) -> Image:
    return denoise_nl_means(image, patch_size=5, patch_distance=6, h=strength * sigma, sigma=sigma)


def _without_blur(image: Image, balance: float) -> Image:
    """Apply a Wiener filter, borders reflected."""
    x = np.arange(-8, 9)
    along = np.exp(-0.5 * (x / _BLUR) ** 2)
    kernel = np.outer(along, along) / along.sum() ** 2
    sharp = wiener(np.pad(image, _PAD, mode="symmetric"), kernel, balance, clip=False)
    return sharp[_PAD:-_PAD, _PAD:-_PAD]


GAINS = (math.hypot(0.299, 0.587, 0.114), 1.0, 1.0, 1.0)
"""Factor of the std of the noise in luma, R, G and B, where that of R, G and B is independent."""
RESTORATIONS: dict[str, Callable[[Image, float], Image]] = {
    "noise": lambda image, gain: _without_noise(image, gain * _NOISE, 0.65),
    "blur": lambda image, _: _without_blur(image, 2e-4),
    "composite": lambda image, gain: _without_blur(_without_noise(image, gain * _COMPOSITE_NOISE, 0.5), 0.03),
}
"""By scenario: what restores one channel **[H, W]**, 0..1, of the visible image, given its factor."""

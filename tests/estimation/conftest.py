"""Images of known noise and blur."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter


def _scene(seed: int = 0, side: int = 192, fall: float = 4.0) -> np.ndarray:
    """Return an image whose power falls as that of sharp images, on a black background, **[H, W]**, 0..1."""
    rng = np.random.default_rng(seed)
    rate = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side))).clip(1 / side)
    image = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) * rate ** (-fall / 2)).real
    image = 0.15 + 0.6 * (image - image.min()) / np.ptp(image)
    rows, columns = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    return image * gaussian_filter((np.hypot(rows, columns) < 0.8).astype(float), 0.6)


def _stored(image: np.ndarray) -> np.ndarray:
    """Return an image as 8 bit store it."""
    return np.round(np.clip(image, 0, 1) * 255) / 255


@pytest.fixture(scope="session")
def scene():
    return _scene


@pytest.fixture(scope="session")
def stored():
    return _stored

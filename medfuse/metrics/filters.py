"""What the metrics share: the check of their input, the scale 0..255, windows and derivatives.

All metrics work in float64 on 0..255, the scale for which their published constants are meant. Each sum runs in a
fixed, symmetric order, so that a flat region gives an exact zero wherever it should.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.errors import GeometryError, ImageError

PEAK = 255.0
"""Full range of the scale on which the metrics work."""

TINY = 1e-10


def as_levels(data_range: float, minimum: int = 3, /, **images: Tensor) -> tuple[Tensor, ...]:
    """Check the images of a metric and bring them to 0..255 in float64.

    Args:
        data_range: Full range of the images: 1 for 0..1, 255 for 8 bits.
        minimum: Least number of rows and columns that the metric needs.
        **images: **[B, 1, H, W]** by the names that errors shall have; a batch of one stands for every sample.

    Returns:
        The images in the order given; nothing is clipped.

    Raises:
        GeometryError: If an image is not [B, 1, H, W], is too small, or two do not fit each other.
        ImageError: If an image holds NaN or infinity, or the range is not positive.
    """
    if not (math.isfinite(data_range) and data_range > 0):
        raise ImageError(f"data_range must be positive, got {data_range}; give 1.0 for 0..1, 255.0 for 8 bits.")
    for name, image in images.items():
        if image.ndim != 4 or image.shape[1] != 1:
            raise GeometryError(f"{name} must be [B, 1, H, W], got {tuple(image.shape)}; add or pick a channel.")
        if min(image.shape[2:]) < minimum or not len(image):
            raise GeometryError(
                f"{name} must have at least {minimum} x {minimum} pixels, got {tuple(image.shape)}; take larger images."
            )
    shapes = {name: tuple(image.shape) for name, image in images.items()}
    sizes, batches = {s[2:] for s in shapes.values()}, {s[0] for s in shapes.values()} - {1}
    if len(sizes) > 1 or len(batches) > 1:
        raise GeometryError(f"The images of a metric must fit each other, got {shapes}; resample them.")
    levels = tuple(i.as_subclass(Tensor).to(torch.float64) * (PEAK / data_range) for i in images.values())
    for name, image in zip(images, levels, strict=True):
        if not bool(torch.isfinite(image).all()):
            raise ImageError(f"{name} must be finite, got NaN or infinity; repair it.")
    return levels


def mean(x: Tensor) -> Tensor:
    """Return the mean of each sample of **[B, 1, H, W]**, as **[B]**."""
    return x.mean((1, 2, 3))


def total(x: Tensor) -> Tensor:
    """Return the sum of each sample of **[B, 1, H, W]**, as **[B]**."""
    return x.sum((1, 2, 3))


def ratio(numerator: Tensor, denominator: Tensor, otherwise: float = math.nan) -> Tensor:
    """Divide where the denominator is not zero; there, return `otherwise`. Its gradient is finite everywhere."""
    zero = denominator == 0
    return torch.where(zero, otherwise, numerator / torch.where(zero, 1.0, denominator))


def root(x: Tensor) -> Tensor:
    """Return the square root of values of at least 0, with gradient 0 at 0."""
    zero = x <= 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x).sqrt())


def gaussian_window(size: int, std: float, *, normalised: bool = True) -> list[float]:
    """Return the taps of a Gaussian of odd `size`; they sum to 1, or to about 1 if not `normalised`."""
    offsets = np.arange(size) - (size - 1) / 2
    taps = np.exp(-(offsets**2) / (2 * std * std))
    return list(taps / (taps.sum() if normalised else math.sqrt(2 * math.pi) * std))


def smooth(x: Tensor, taps: Sequence[float]) -> Tensor:
    """Filter rows and columns with a symmetric window of odd length; only what needs no padding comes back."""
    radius = len(taps) // 2
    for axis in (-2, -1):
        inside = x.shape[axis] - 2 * radius
        result = x.narrow(axis, radius, inside) * taps[radius]
        for k in range(radius):
            result = result + (x.narrow(axis, k, inside) + x.narrow(axis, 2 * radius - k, inside)) * taps[k]
        x = result
    return x


def smooth_same(x: Tensor, taps: Sequence[float]) -> Tensor:
    """Filter as `smooth` does, with zeros beyond the border: the size stays."""
    radius = len(taps) // 2
    return smooth(F.pad(x, (radius,) * 4), taps)


def smooth_mirrored(x: Tensor, taps: Sequence[float]) -> Tensor:
    """Filter as `smooth` does, mirrored at the edge of the border pixels: the size stays."""
    radius = len(taps) // 2
    for axis, n in ((-2, x.shape[-2]), (-1, x.shape[-1])):
        places = torch.arange(-radius, n + radius, device=x.device) % (2 * n)
        x = x.index_select(axis, torch.minimum(places, 2 * n - 1 - places))
    return smooth(x, taps)


def sobel(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives along columns (x, to the right) and rows (y, downwards), with zeros beyond the border."""
    x = F.pad(x, (1, 1, 1, 1))
    rows = x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]
    columns = x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    return rows[..., 2:] - rows[..., :-2], columns[..., 2:, :] - columns[..., :-2, :]


def magnitude(x: Tensor, y: Tensor) -> Tensor:
    """Return the length of a vector, with gradient 0 at 0."""
    return root(x * x + y * y)


def stretch(x: Tensor) -> Tensor:
    """Stretch each image to 0..255 and round, half away from zero; an image of one value stays as it is."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    flat = high == low
    return torch.where(flat, x, ((x - low) / torch.where(flat, 1.0, high - low) * PEAK + 0.5).floor())


def frequency_radius(height: int, width: int, scale: tuple[float, float], device: torch.device) -> Tensor:
    """Return the radius of each coefficient of `rfft2`, **[H, W // 2 + 1]**.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        scale: Radius at the Nyquist frequency along rows and along columns.
        device: Where.
    """
    v = torch.fft.fftfreq(height, dtype=torch.float64, device=device) * 2 * scale[0]
    u = torch.fft.rfftfreq(width, dtype=torch.float64, device=device) * 2 * scale[1]
    return torch.hypot(v[:, None], u[None, :])


def filter_spectrum(x: Tensor, response: Tensor) -> Tensor:
    """Multiply the spectrum of an image by a real response **[H, W // 2 + 1]**."""
    filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * response, s=x.shape[-2:])
    return filtered

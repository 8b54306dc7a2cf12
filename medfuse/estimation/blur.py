"""Width of a Gaussian blur of an image, from the fall of its spectrum, by a prior of how spectra of its kind fall.

The power of most images falls with the frequency, about as `A r^-b`. A blur takes away what is fast, by the factor
`exp(-(s pi r)^2)`, and noise adds a floor. Whittle's likelihood of the power in bands gives the posterior of the width.

Where an image without noise has a black background, it also tells how wide a blur can be at most: the log of what is
nowhere negative and was blurred bends by no more than `1 / s^2`, see `widest_blur`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.fft import dctn, idctn


class Spectrum(NamedTuple):
    """How the power of sharp images of a kind falls: as `r^-b`, times a shape.

    Attributes:
        mean: Exponent b.
        std: Of the exponent among images.
        stated: Share of an estimated width that is stated: less where an overstated one costs more than an understated
            one, more where widths of 2 px and more are found too narrow.
        own: Width, px, that most sharp images show of themselves. Widths of blurs in a row add in squares, so without
            it the square of a found width is too large by its square, which counts where the blur is small.
        shape: Log of the shape in each band but the slowest and the fastest: its median among images.
    """

    mean: float
    std: float
    stated: float
    own: float
    shape: tuple[float, ...]


# fmt: off
PRIORS: Mapping[str, Spectrum | None] = {
    "anatomy": Spectrum(3.96, 0.38, 0.97, 0.4, (
        -1.36, -0.48, -0.06, 0.19, 0.37, 0.55, 0.71, 0.88, 0.97, 0.97, 0.81, 0.54, 0.29, -0.08, -0.38,
        -0.72, -0.90, -0.90, -0.87, -0.79,
    )),
    "visible": Spectrum(4.02, 0.33, 1.03, 0.0, (
        -1.16, -0.39, 0.03, 0.31, 0.48, 0.56, 0.62, 0.64, 0.56, 0.46, 0.35, 0.19, 0.10, 0.08, 0.15, -0.19,
        -0.46, -0.64, -0.76, -0.86,
    )),
    "infrared": Spectrum(3.86, 0.29, 0.98, 0.0, (
        -1.27, -0.34, 0.10, 0.33, 0.46, 0.58, 0.61, 0.60, 0.54, 0.43, 0.31, 0.22, 0.16, 0.16, 0.24, -0.16,
        -0.49, -0.69, -0.87, -0.91,
    )),
    "function": None,
}
# fmt: on
"""By the kind of image, each from 46 images of a train split; None: spectra of PET and SPECT fall as those of blurred
images do, and tell nothing of a blur."""

_BANDS = 22  # of the width of a 16th of the Nyquist frequency, up to where the corner begins to be empty
_PER_NYQUIST = 16
_LEAST_RATE = 1 / 32  # along each axis: what leaks along the axes is of the borders
_MOST, _WORTH = 2000, 50.0  # waves of a band that count; so many are worth one of a spectrum that is as the model says
_WIDTHS = np.concatenate([np.arange(0.0, 2.4, 0.08), np.arange(2.4, 5.01, 0.2)])  # px
_EXPONENTS = np.linspace(-2.4, 2.4, 9)  # std of the prior
_FLOORS = np.geomspace(0.25, 1.5, 8)  # of the least power of a band
_ABOVE = 20.0  # times the floor: a band that tells of the signal alone
_SCORINGS, _LARGEST_STEP = 5, 2.0  # of the log of A
_ALONE, _FEWEST_BANDS = 1.1, 4  # times the floor, below which a band holds it alone; that must be so
_QUANTILES = (0.05, 0.5, 0.95)
_BLACK, _LEAST_BLACK = 4 / 255, 0.05  # what counts as black, and the least share of an image that is
_UNDONE, _SMOOTHED = 0.5, 0.5  # share of a width that is undone, and px by which the result is smoothed
_POWER = 1e-6
_CONSTANT, _SLOPE, _WEIGHT, _GROWS = -0.125, 1.119, 0.268, 0.301  # of the logs, see `noiseless_blur`
_BEND = 0.07  # the median of the log of the bound over the width of the spectrum
_MOST_OF, _POWER_OF = 0.83, 1.13  # of the bound, beyond which the same images lose more than they gain
_RARE, _FEWEST = 655, 500  # pixels of which one may bend further; that must be seen


class Bands(NamedTuple):
    """Power of an image in bands of the radial frequency: rate (of the Nyquist frequency), mean power, waves."""

    rate: np.ndarray
    power: np.ndarray
    waves: np.ndarray


class Width(NamedTuple):
    """Posterior of the width of a blur.

    Attributes:
        low: Its 5 % quantile, px.
        middle: Its median, px.
        high: Its 95 % quantile, px.
        misfit: Largest log by which a band is off the best fit, the power counted down to the rounding.
        floor: Log of how much the power differs among bands in which the best fit has noise or rounding alone: near 0
            for white noise, and large for what a blur left of nothing.
    """

    low: float
    middle: float
    high: float
    misfit: float
    floor: float


def band_power(image: np.ndarray) -> Bands:
    """Return the power of the cosine waves of an image **[H, W]** in bands."""
    power = np.square(dctn(np.asarray(image, np.float64), norm="ortho"))
    band, count = _bands_of(power.shape)
    total = np.bincount(band, power.ravel(), minlength=_BANDS + 1)[:_BANDS]
    return Bands((np.arange(_BANDS) + 0.5) / _PER_NYQUIST, total / np.maximum(count, 1), count)


@lru_cache(maxsize=2)  # images of a run have one shape, or two
def _bands_of(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the band of each wave of an image of a shape, one after the other, and how many are in each."""
    rows, columns = (np.arange(n) / n for n in shape)
    band = np.minimum((np.hypot(rows[:, None], columns[None]) * _PER_NYQUIST).astype(np.intp), _BANDS)
    band[(rows[:, None] < _LEAST_RATE) | (columns[None] < _LEAST_RATE)] = _BANDS
    return band.ravel(), np.bincount(band.ravel(), minlength=_BANDS + 1)[:_BANDS]


def widest_blur(image: np.ndarray, width: float, rounding: float) -> float | None:
    """Return how wide a blur of a non-negative image can be, px, by how far its log bends beside black.

    An image that is nowhere negative, blurred with a Gaussian, is a mixture of Gaussians of that width s. The second
    derivative of the log of a mixture is `-1 / s^2 + (variance of what lies around) / s^4`, nowhere below `-1 / s^2`:
    the sharpest bend bounds the width, and at an isolated line or dot it is the width. Half of the expected width is
    undone before, which leaves the bound and sharpens it. The bend is that which 1 pixel in 655 exceeds, so that
    rounding does not tell it.

    Args:
        image: **[H, W]**, without noise but that of its rounding.
        width: What is expected, px.
        rounding: Variance of the rounding of the image.

    Returns:
        The width; None where there is no black background, or nothing bends.
    """
    image = np.asarray(image, np.float64)
    if (image <= _BLACK).mean() < _LEAST_BLACK:
        return None
    rates = [np.square(np.arange(n) / n) for n in image.shape]
    square = rates[0][:, None] + rates[1][None]
    undone = _UNDONE * width
    blur, smooth = (np.exp(-0.5 * square * (s * math.pi) ** 2) for s in (undone, _SMOOTHED))
    power = _POWER * np.maximum(square, 1 / 64**2) ** -2  # of a sharp image, roughly: what is below rounding stays
    gain = smooth * blur * power / (np.square(blur) * power + rounding)
    log = np.log(np.maximum(idctn(dctn(image, norm="ortho") * gain, norm="ortho"), _BLACK / 4))
    middle = log[1:-1, 1:-1]
    along = [log[2:, 1:-1] - 2 * middle + log[:-2, 1:-1], log[1:-1, 2:] - 2 * middle + log[1:-1, :-2]]
    across = (log[2:, 2:] + log[:-2, :-2] - log[2:, :-2] - log[:-2, 2:]) / 4
    bend = np.sqrt(np.square((along[0] - along[1]) / 2) + np.square(across)) - (along[0] + along[1]) / 2
    shown = log > math.log(_BLACK)
    seen = shown[1:-1, 1:-1] & shown[2:, 1:-1] & shown[:-2, 1:-1] & shown[1:-1, 2:] & shown[1:-1, :-2]
    if seen.sum() < _FEWEST:
        return None
    rank = max(bend.size // _RARE, 1)
    sharpest = float(np.partition(bend[seen], -rank)[-rank])
    return math.sqrt(undone**2 - _SMOOTHED**2 + 1 / sharpest) if sharpest > 0 else None


def noiseless_blur(middle: float, widest: float) -> tuple[float, float]:
    """Return the width of a blur of an MRI without noise, and what at most should be undone, px.

    Of 46 MRIs of a train split and 13 others, blurred by 0.9 to 3 px and rounded to 8 bit, the log of the width was
    regressed on that of the spectrum's, and on how much wider a blur could be by the bend of the log; so what sharp
    images show of themselves is not in it. On 13 others it is within 5 % (std) at 1.2 px and 2.7 % at 3 px.

    Args:
        middle: Width that the spectrum shows, px.
        widest: See `widest_blur`; NaN where nothing tells.
    """
    log = math.log(middle)
    bend = math.log(widest) - log if math.isfinite(widest) else _BEND
    width = math.exp(_CONSTANT + _SLOPE * log + (_WEIGHT + _GROWS * log) * bend)
    return width, _MOST_OF * widest**_POWER_OF if math.isfinite(widest) else math.inf


def width_of_blur(bands: Bands, prior: Spectrum, rounding: float) -> Width:
    """Return the posterior of the width of a blur.

    The amplitude A is the likeliest for each width, exponent and floor of a grid; these are summed over.

    Args:
        bands: Power of the image in bands.
        prior: How spectra of the kind fall.
        rounding: Variance of the rounding of the image: no floor lies below it.

    Reference:
        Whittle, Estimation and information in stationary time series (Arkiv for Matematik 1953).
    """
    used = slice(1, _BANDS - 1)
    r, m, n = bands.rate[used], bands.power[used], np.minimum(bands.waves[used], _MOST) / _WORTH
    widths, exponents = _WIDTHS[:, None, None, None], (prior.mean + prior.std * _EXPONENTS)[None, :, None, None]
    floors = np.maximum(max(m[-6:].min(), 1e-12) * _FLOORS, max(rounding, 1e-12))[None, None, :, None]
    shape = np.maximum(np.exp(prior.shape) * r**-exponents * np.exp(-np.square(widths * math.pi * r)), 1e-30)
    above = n * (m >= min(_ABOVE * floors.min(), m.max()))  # where the floor does not count, the log of A is a mean
    log_a = (np.log(np.maximum(m, 1e-12) / shape) @ above / above.sum())[..., None]
    for _ in range(_SCORINGS):
        signal = np.exp(log_a) * shape
        model = signal + floors
        share = signal / model
        first, second = (share * (1 - m / model)) @ n, np.square(share) @ n
        log_a = log_a - np.clip(first / np.maximum(second, 1e-9), -_LARGEST_STEP, _LARGEST_STEP)[..., None]
    model = np.exp(log_a) * shape + floors
    loss = (np.log(model) + m / model) @ n + 0.5 * np.square(_EXPONENTS)[None, :, None]
    weight = np.exp(loss.min() - loss).sum((1, 2))
    cumulative = np.concatenate([[0], np.cumsum((weight[1:] + weight[:-1]) / 2 * np.diff(_WIDTHS))])
    cumulative = cumulative / cumulative[-1]
    low, middle, high = (float(np.interp(q, cumulative, _WIDTHS)) for q in _QUANTILES)
    at = np.unravel_index(loss.argmin(), loss.shape)
    best, noise = model[at], floors[0, 0, at[2], 0]
    told = np.maximum(m, max(rounding, 1e-12))  # less than the rounding of any other image is nothing
    left = np.log(np.maximum(m[best < _ALONE * noise], 1e-30))
    spread = float(np.ptp(left)) if len(left) >= _FEWEST_BANDS else 0.0
    return Width(low, middle, high, float(np.abs(np.log(told / best)).max()), spread)

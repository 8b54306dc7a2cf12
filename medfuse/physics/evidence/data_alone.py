"""What the data alone say of an image: the posterior mean under a prior that knows no image, and so invents none.

    x = mu + C A' (A C A' + R)^-1 (y - E y(mu)),    C = W' P W

with A and R those of the model, the prior mean mu flat (the mean of the data), and the prior covariance stationary: W
are the cosine waves, and `P(f)` is the power spectrum of the image as the data show it, in bands of the radial
frequency (their power less that of the noise, over what the operator lets pass), never rising. Beyond the last band
above the noise it falls on as `f^-2`, as spectra of scans do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medfuse.physics.models.source import SourceModel, spread
from medfuse.physics.models.spectral import SpectralModel
from medfuse.physics.operators.cosine import cosine_waves

_BANDS = 32  # of equal width, up to the Nyquist frequency, at most
_WAVES = 4  # along the shortest side that a band holds at least: the first, without the mean, must tell something
_PRESENT = 3.0  # standard deviations of the power of noise in a band from which an image is seen
_PASSES = 1e-3  # mean power that passes, from which a band tells of the image


@torch.no_grad()
def data_alone(model: SourceModel) -> Tensor:
    """Return the posterior mean of an image by its data alone, **[B, C, *spatial]**.

    Where A is not diagonal in the cosine waves, as a mask or a motion, `C = P I`, with the least P whose estimate
    explains the data (the discrepancy principle). A source to which nothing happened is its data.

    Args:
        model: Any observation model.
    """
    flat = model.y.mean(tuple(range(1, model.y.ndim)))
    mean = spread(flat, model.y).expand(*model.y.shape[:2], *model.spatial).clone()
    if not model.degradation.steps or not isinstance(model, SpectralModel):
        return model.update(mean, model.consistency(mean)).x
    waves = cosine_waves(model.pixels(model.residual(mean)))
    gain, noise = (v.expand_as(waves) for v in (model.gains(model.operator), model.noises()))
    scale = [large / small for large, small in zip(model.spatial, waves.shape[2:], strict=True)]
    of_data, of_image = _rates(waves.shape[2:], scale, waves), _rates(model.spatial, [1.0] * len(scale), waves)
    bands = max(min(_BANDS, min(waves.shape[2:]) // _WAVES), 1)
    power = _spectrum(waves.square(), gain, noise, of_data, bands)
    u = waves / (_at(power, of_data) * gain + noise)
    # the pixels are the data space of a plain model, the waves of any other: `back` takes its own
    pulled = model.back(u if not model.operator.is_identity else cosine_waves(u, inverse=True))
    return mean + cosine_waves(_at(power, of_image) * cosine_waves(pulled), inverse=True)


def _rates(sizes: torch.Size | tuple[int, ...], scale: list[float], like: Tensor) -> Tensor:
    """Return the radial frequency of each wave, in units of the Nyquist frequency of the image, **[*sizes]**."""
    axes = [torch.arange(n, device=like.device, dtype=like.dtype) / (n * s) for n, s in zip(sizes, scale, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()


def _spectrum(found: Tensor, gain: Tensor, noise: Tensor, rates: Tensor, bands: int) -> Tensor:
    """Return the power of the image in each band, **[B, bands]**."""
    band = (rates * bands).long().clamp_max(bands - 1).flatten()

    def banded(values: Tensor) -> Tensor:
        total = values.new_zeros(len(values), bands)
        return total.index_add_(1, band, values.flatten(1))

    count = banded(torch.ones_like(found)).clamp_min(1)
    excess, doubt = banded(found - noise), _PRESENT * banded(2 * noise.square()).sqrt()
    passes = banded(gain)
    seen = (excess > doubt) & (passes / count > _PASSES)
    present = seen.cumprod(1).bool()
    power = torch.where(present, excess / passes.clamp_min(torch.finfo(found.dtype).tiny), 0.0)
    power = torch.where(present, power.cummin(1).values, 0.0)
    last = (present.sum(1, keepdim=True) - 1).clamp_min(0)
    place = torch.arange(bands, device=found.device, dtype=found.dtype) + 0.5
    falls = power.gather(1, last) * ((last + 0.5) / place) ** 2
    return torch.where(present, power, falls)


def _at(power: Tensor, rates: Tensor) -> Tensor:
    """Return the power of a band at each wave, **[B, 1, *sizes]**."""
    bands = power.shape[1]
    band = (rates * bands).long().clamp_max(bands - 1)
    return power[:, band][:, None]

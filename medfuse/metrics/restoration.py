"""What was restored, and what of a degradation is left: leakage into the fusion, and residuals of the data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medfuse.errors import DegradationError, GeometryError
from medfuse.metrics.filters import PEAK, TINY, as_levels, gaussian_window, mean, ratio, smooth_mirrored
from medfuse.metrics.structure import peak_signal_to_noise_ratio

_LAGS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
_HIGH_PASS = 2.0  # std in px of the Gaussian that is taken away
_VARIES = 1e-9
_SHOWN = 0.05  # share of a source in the fusion below which its leakage cannot be told


def leakage(
    source1: Tensor, source2: Tensor, degraded1: Tensor, degraded2: Tensor, fused: Tensor, *, data_range: float
) -> Tensor:
    """Return the share of each source's degradation that passes into the fused image.

    The fused image is explained by both clean sources and both degradation errors `n_i = d_i - s_i`,
    `f ~ c1 s1 + c2 s2 + e1 n1 + e2 n2`, all high-passed (minus their Gaussian of 2 px), so that offsets and clipped
    backgrounds do not count. The leakage of source i is `e_i / c_i`. It is meant for noise: under blur alone, the
    error is a high-pass copy of the source, and the number only indicates.

    Args:
        source1: Clean, **[B or 1, 1, H, W]**.
        source2: Clean, **[B or 1, 1, H, W]**.
        degraded1: As the method saw it, of the same size; **[B or 1, 1, H, W]**.
        degraded2: Likewise.
        fused: **[B, 1, H, W]**.
        data_range: Full range of the images.

    Returns:
        **[B, 2]**: 1 where the degraded source was copied, 0 where it was fully restored, below 0 where the error was
        over-corrected. NaN for a source that was not degraded, or of which the fusion shows less than 0.05.
    """
    s1, s2, d1, d2, f = as_levels(
        data_range, source1=source1, source2=source2, degraded1=degraded1, degraded2=degraded2, fused=fused
    )
    terms = torch.cat(torch.broadcast_tensors(s1, s2, d1 - s1, d2 - s2), 1)
    varies = terms.amax((2, 3)) - terms.amin((2, 3)) > _VARIES
    window = gaussian_window(17, _HIGH_PASS)
    basis = (terms - smooth_mirrored(terms, window)).flatten(2).mT * varies[:, None, :]
    target = (f - smooth_mirrored(f, window)).flatten(1)[..., None]
    orthogonal, triangular = torch.linalg.qr(basis)
    tolerance = torch.finfo(basis.dtype).eps * basis.shape[1]
    shares = (torch.linalg.pinv(triangular, rtol=tolerance) @ (orthogonal.mT @ target))[..., 0]
    shares, varies = torch.broadcast_tensors(shares, varies)
    known = varies[:, 2:] & varies[:, :2] & (shares[:, :2].abs() > _SHOWN)
    return torch.where(known, ratio(shares[:, 2:], shares[:, :2]), math.nan)


def psnr_gain(reference: Tensor, degraded: Tensor, restored: Tensor, *, data_range: float) -> Tensor:
    """Return by how many dB the restoration is closer to the clean source than the degraded source was.

    Args:
        reference: Clean source **[B or 1, 1, H, W]**.
        degraded: **[B or 1, 1, H, W]**, of the same size; clipped to the range, as a display is.
        restored: **[B, 1, H, W]**; clipped likewise.
        data_range: Full range of the images.

    Returns:
        **[B]**, dB.
    """
    x, d, r = as_levels(data_range, reference=reference, degraded=degraded, restored=restored)
    after, before = (peak_signal_to_noise_ratio(x, v.clamp(0, PEAK), data_range=PEAK) for v in (r, d))
    return after - before


def residual_statistics(residual: Tensor, sigma: float | Tensor) -> dict[str, Tensor]:
    """Judge a residual `y - A x` of the data: is it the noise that was stated, and white?

    Necessary, not sufficient: it says nothing about what A removes.

    Args:
        residual: **[B, 1, H, W]** in any unit, at least 8 x 8.
        sigma: Std of the noise in the same unit, positive: a number, or a map that broadcasts.

    Returns:
        Each **[B]**. `chi2`, 1 on average for the true image, of std `chi2_sd_if_true`: near 0 where noise was copied,
        above 1 where data are not explained. `mean_z`, the mean over its std. `rho_01`, `rho_10`, `rho_11`, `rho_02`,
        `rho_20`, correlations of pixels that many rows and columns apart, 0 for white noise, of std `rho_sd_if_white`.
        `low_high_power`, the power below 1/8 over that in 1/4..1/2 cycles per pixel: above 1 over-smoothed, below 1
        noise fitted.

    Raises:
        GeometryError: If the residual is not [B, 1, H, W] or too small.
        DegradationError: If sigma is not positive.
        ImageError: If the residual holds NaN or infinity.

    Reference:
        Whiteness as in Almeida and Figueiredo, Parameter estimation for blind and non-blind deblurring using residual
        whiteness measures (TIP 2013).
    """
    (r,) = as_levels(PEAK, 8, residual=residual)
    std = torch.as_tensor(sigma, dtype=r.dtype, device=r.device)
    if not bool((std > 0).all()):
        raise DegradationError(f"sigma must be positive, got {float(std.min()):g}; give the noise's std.")
    try:
        z = r / std
    except RuntimeError as error:
        raise GeometryError(
            f"sigma must be a number or fit the residual, got {tuple(std.shape)} and {tuple(r.shape)}."
        ) from error
    height, width = z.shape[2:]
    count = height * width
    centred = z - z.mean((1, 2, 3), keepdim=True)
    variance = mean(centred.square()).clamp_min(TINY)
    result = {
        "chi2": mean(z.square()),
        "chi2_sd_if_true": z.new_full((len(z),), math.sqrt(2 / count)),
        "mean_z": mean(z) * math.sqrt(count),
        "rho_sd_if_white": z.new_full((len(z),), 1 / math.sqrt(count)),
        "low_high_power": _low_high_power(centred),
    }
    for dy, dx in _LAGS:
        shifted = centred[..., dy:, dx:] * centred[..., : height - dy, : width - dx]
        result[f"rho_{dy}{dx}"] = mean(shifted) / variance
    return result


def _low_high_power(x: Tensor) -> Tensor:
    """Return the mean power of low frequencies over that of high ones, **[B]**."""
    power: Tensor = torch.fft.fft2(x).abs().square()
    v, u = (torch.fft.fftfreq(n, dtype=x.dtype, device=x.device) for n in x.shape[2:])
    radius = torch.hypot(v[:, None], u[None, :])
    low, high = (radius > 0) & (radius <= 0.125), (radius > 0.25) & (radius <= 0.5)
    return power[..., low].mean((1, 2)) / power[..., high].mean((1, 2)).clamp_min(TINY)

"""Facts for the records: versions, hashes, agreement with the data, distance from the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.metrics import PSNRMetric, SSIMMetric
from torch import Tensor

from medfuse.physics import Degradation, JointDegradation, bind

DIMENSIONLESS = "normalised, dimensionless"
_PACKAGES = ("medfuse", "monai", "torch", "SimpleITK", "nibabel", "pydicom", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of medfuse and of what a result depends on."""
    return {name: version(name) for name in _PACKAGES}


@dataclass(frozen=True)
class Agreement:
    """What the data say of the restoration of a source to which something happened.

    Attributes:
        chi2: Chi-square per datum of the residual: about 1 when the restoration explains the data.
        narrowed_blur: By how much the blur was undone less than stated, see `narrowed_blur`.
        residual: What the restoration leaves of its data, `y - A x`, **[N, H, W]**, in standard deviations of the
            noise; a low-resolution source is replicated. `A` is the operator of the model, in which a blur that the
            data disprove is narrowed. Noise that a later step has correlated counts with its deviation in a pixel.
    """

    chi2: float
    narrowed_blur: dict[str, float] | None
    residual: Tensor


def agreements(
    inputs: Tensor, restored: Tensor, degradation: JointDegradation, *, batch: int = 16
) -> list[Agreement | None]:
    """Hold the restoration of each source against its data.

    Args:
        inputs: Degraded sources as slices **[N, 2, H, W]**, 0..1.
        restored: Restored sources **[N, 2, H, W]**.
        degradation: What happened to them.
        batch: Slices per step.

    Returns:
        The agreement of each source; None for one to which nothing happened: it comes back as it was, and there is
        nothing to explain.
    """
    return [
        _agreement(inputs[:, i : i + 1].split(batch), restored[:, i : i + 1].split(batch), part, degradation)
        if part.steps
        else None
        for i, part in enumerate(degradation)
    ]


def _agreement(
    inputs: Sequence[Tensor], restored: Sequence[Tensor], part: Degradation, degradation: JointDegradation
) -> Agreement:
    """Hold the restoration of one source against its data, batch by batch, on the grid on which it was restored."""
    height, width = inputs[0].shape[2:]
    padding = degradation.padding((height, width))
    chi2, shares, residuals = [], [], []
    for y, x in zip(inputs, restored, strict=True):
        y, x = (F.pad(v, padding, mode="replicate") if any(padding) else v for v in (y, x))
        model = bind(part, part.observed(y), y.shape[2:])
        chi2.append(model.chi2(x))
        shares.append(model.blur_share)
        residuals.append((model.misfit(x) / model.sigma())[:, 0, :height, :width])
    return Agreement(float(torch.cat(chi2).mean()), narrowed_blur(torch.cat(shares)), torch.cat(residuals))


def narrowed_blur(shares: Tensor) -> dict[str, float] | None:
    """Return in how many slices the data show a narrower blur than was stated.

    Args:
        shares: Share of the stated width of the blur that was undone in each slice, **[N]**, 1 at most.

    Returns:
        `slices`, the fraction of slices where it is below 1, and `share`, the median share there; None where the blur
        was undone as stated, or none was.
    """
    narrowed = shares[shares < 1]
    return {"slices": len(narrowed) / len(shares), "share": float(narrowed.median())} if len(narrowed) else None


def fidelity(restored: Tensor, truth: Tensor, data_range: float) -> dict[str, float]:
    """Return PSNR (dB, at most 100: identical images) and SSIM of a restored source **[1, *spatial]**."""
    pair = (restored[None].float(), truth[None].float())
    ssim = SSIMMetric(spatial_dims=restored.ndim - 1, data_range=data_range)(*pair)
    return {"psnr": min(float(PSNRMetric(data_range)(*pair)), 100.0), "ssim": float(ssim)}


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

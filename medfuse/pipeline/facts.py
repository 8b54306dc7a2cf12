"""Facts for the records: versions, hashes, agreement with the data, distance from the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from monai.metrics import PSNRMetric, SSIMMetric
from torch import Tensor

from medfuse.physics import JointDegradation, JointObservation, fit

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
        narrowed_blur: Share of its stated width to which the blur was undone, where the data show it to be narrower;
            None where it was undone as stated, or none was.
        converged: Whether the last correction was solved to its tolerance: conjugate gradients stop after 60 rounds.
        residual: What the restoration leaves of its data, `y - A x`, **[N, H, W]**, in standard deviations of the
            noise; a low-resolution source is replicated. `A` is the operator of the model, in which a blur that the
            data disprove is narrowed. Noise that a later step has correlated counts with its deviation in a pixel.
    """

    chi2: float
    narrowed_blur: float | None
    converged: bool
    residual: Tensor


def agreements(
    inputs: Tensor,
    restored: Tensor,
    degradation: JointDegradation,
    findings: Mapping[str, Tensor],
    *,
    batch: int = 16,
) -> list[Agreement | None]:
    """Hold the restoration of each source against its data, batch by batch, on the grid on which it was restored.

    Args:
        inputs: Degraded sources as slices **[N, 2, H, W]**, 0..1.
        restored: Restored sources **[N, 2, H, W]**.
        degradation: What was stated to have happened to them.
        findings: What the data proved, **[2]** each, see `FusionInferer`.
        batch: Slices per step.

    Returns:
        The agreement of each source; None for one to which nothing happened: it comes back as it was, and there is
        nothing to explain.
    """
    height, width = inputs.shape[2:]
    chi2: list[list[Tensor]] = [[], []]
    residuals: list[list[Tensor]] = [[], []]
    for y, x in zip(inputs.split(batch), restored.split(batch), strict=True):
        y, x = degradation.continued(y), degradation.continued(x)
        fitted, _ = fit(degradation, y, blur=findings["blur"].to(y).expand(len(y), -1))
        for i, model in enumerate(JointObservation.from_images(y, fitted)):
            if model.degradation.steps:
                image = x[:, i : i + 1]
                chi2[i].append(model.chi2(image))
                residuals[i].append((model.misfit(image) / model.sigma())[:, 0, :height, :width])
    return [
        Agreement(float(torch.cat(of).mean()), float(share) if share < 1 else None, bool(solved), torch.cat(left))
        if of
        else None
        for of, left, share, solved in zip(chi2, residuals, findings["blur"], findings["converged"], strict=True)
    ]


def fidelity(restored: Tensor, truth: Tensor, data_range: float) -> dict[str, float]:
    """Return PSNR (dB, at most 100: identical images) and SSIM of a restored source **[1, *spatial]**."""
    pair = (restored[None].float(), truth[None].float())
    ssim = SSIMMetric(spatial_dims=restored.ndim - 1, data_range=data_range)(*pair)
    return {"psnr": min(float(PSNRMetric(data_range)(*pair)), 100.0), "ssim": float(ssim)}


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Facts for the records: versions, hashes, agreement with the data, distance from the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from monai.metrics import PSNRMetric, SSIMMetric
from torch import Tensor

from medfuse.physics import (
    Degradation,
    GaussianBlur,
    JointDegradation,
    SourceModel,
    SpectralModel,
    bind,
)

DIMENSIONLESS = "normalised, dimensionless"
_PACKAGES = ("medfuse", "monai", "torch", "SimpleITK", "nibabel", "pydicom", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of medfuse and of what a result depends on."""
    return {name: version(name) for name in _PACKAGES}


def residual_chi2(
    inputs: Tensor, restored: Tensor, degradation: JointDegradation, *, batch: int = 16
) -> list[float | None]:
    """Return the chi-square per datum of the residual of each source: about 1 when the restoration explains the data.

    None for a source to which nothing happened: it comes back as it was, and there is nothing to explain.

    Args:
        inputs: Degraded sources as slices **[N, 2, H, W]**, 0..1.
        restored: Restored sources **[N, 2, H, W]**.
        degradation: What happened to them.
        batch: Slices per step.
    """
    figures: list[float | None] = []
    for i, part in enumerate(degradation):
        if not part.steps:
            figures.append(None)
            continue
        models = _bound(part, inputs[:, i : i + 1], batch)
        pieces = zip(models, restored[:, i : i + 1].split(batch), strict=True)
        figures.append(sum(float(model.chi2(x).sum()) for model, x in pieces) / len(inputs))
    return figures


def narrowed_blur(inputs: Tensor, degradation: JointDegradation, *, batch: int = 16) -> list[dict[str, float] | None]:
    """Return by how much the blur of each source was undone less than stated, for the data show it to be narrower.

    Args:
        inputs: Degraded sources as slices **[N, 2, H, W]**, 0..1.
        degradation: What is said to have happened to them.
        batch: Slices per step.

    Returns:
        Of each source `slices`, the fraction of slices where that was so, and `share`, the median share of the stated
        width that was undone there; None where the blur was undone as stated, or none was.
    """
    figures: list[dict[str, float] | None] = []
    for i, part in enumerate(degradation):
        shares = [inputs.new_ones(1)]
        if any(isinstance(step, GaussianBlur) for step in part.steps):
            models = _bound(part, inputs[:, i : i + 1], batch)
            shares = [model.blur_share for model in models if isinstance(model, SpectralModel)] or shares
        share = torch.cat(shares)
        narrowed = share[share < 1]
        known = {"slices": len(narrowed) / len(share), "share": float(narrowed.median())} if len(narrowed) else None
        figures.append(known)
    return figures


def residual_maps(
    inputs: Tensor, restored: Tensor, degradation: JointDegradation, *, batch: int = 16
) -> list[Tensor | None]:
    """Return what each restoration leaves of its data, `y - A x`, in standard deviations of the noise.

    `A` is the operator of the model, in which a blur that the data disprove is narrowed. Noise that a later step has
    correlated counts with its standard deviation in a pixel. None for a source to which nothing happened.

    Args:
        inputs: Degraded sources as slices **[N, 2, H, W]**, 0..1.
        restored: Restored sources **[N, 2, H, W]**.
        degradation: What happened to them.
        batch: Slices per step.

    Returns:
        **[N, H, W]** for each source; a low-resolution one is replicated.
    """
    maps: list[Tensor | None] = []
    for i, part in enumerate(degradation):
        if not part.steps:
            maps.append(None)
            continue
        pieces = []
        for model, x in zip(
            _bound(part, inputs[:, i : i + 1], batch), restored[:, i : i + 1].split(batch), strict=True
        ):
            pieces.append((model.misfit(x) / model.sigma())[:, 0])
        maps.append(torch.cat(pieces))
    return maps


def _bound(degradation: Degradation, slices: Tensor, batch: int) -> Iterator[SourceModel]:
    """Bind the slices **[N, 1, H, W]** of a source to the models that restored them, so many at once."""
    for part in slices.split(batch):
        yield bind(degradation, degradation.observed(part), slices.shape[2:])


def fidelity(restored: Tensor, truth: Tensor, data_range: float) -> dict[str, float]:
    """Return PSNR (dB, at most 100: identical images) and SSIM of a restored source **[1, *spatial]**."""
    pair = (restored[None].float(), truth[None].float())
    ssim = SSIMMetric(spatial_dims=restored.ndim - 1, data_range=data_range)(*pair)
    return {"psnr": min(float(PSNRMetric(data_range)(*pair)), 100.0), "ssim": float(ssim)}


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

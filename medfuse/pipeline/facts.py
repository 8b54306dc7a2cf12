"""Facts for the records: versions, hashes, agreement with the data, distance from the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.metrics import PSNRMetric, SSIMMetric
from torch import Tensor

from medfuse.bundles import named_as_preset
from medfuse.physics import Degradation, Identity, JointDegradation, fit, sigma_map

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
    inputs: Tensor | Sequence[Tensor],
    restored: Tensor | Sequence[Tensor],
    degradation: JointDegradation,
    findings: Mapping[str, Tensor],
    *,
    batch: int = 16,
    dtype: torch.dtype = torch.float32,
) -> list[Agreement | None]:
    """Hold the restoration of each source against its data, batch by batch, on the grid on which it was restored.

    Args:
        inputs: Degraded sources as slices **[N, 2, H, W]**, or each **[N, H, W]**, 0..1.
        restored: Restored sources, likewise.
        degradation: What was stated to have happened to them.
        findings: What the data proved, **[2]** each: `blur` and `converged`, see `FusionInferer`.
        batch: Slices per step.
        dtype: Type of the residuals; float16 is enough to look at them.

    Returns:
        The agreement of each source; None for one to which nothing happened: it comes back as it was, and there is
        nothing to explain.
    """
    pairs = [v.unbind(1) if isinstance(v, Tensor) else v for v in (inputs, restored)]
    count, height, width = pairs[0][0].shape
    largest = torch.finfo(dtype).max
    chi2: list[list[Tensor]] = [[], []]
    residuals = [torch.empty(count, height, width, dtype=dtype) if part.steps else None for part in degradation]
    for start in range(0, count, batch):
        some = slice(start, start + batch)
        y, x = (degradation.continued(torch.stack([v[some] for v in images], 1)) for images in pairs)
        fitted = fit(degradation, y, blur=findings["blur"].to(y).expand(len(y), -1))
        for i, (model, residual) in enumerate(zip(fitted.models, residuals, strict=True)):
            if residual is not None:
                image = x[:, i : i + 1]
                chi2[i].append(model.chi2(image))
                left = (model.misfit(image) / model.sigma())[:, 0, :height, :width]
                residual[some] = left.clamp(-largest, largest)
    return [
        None
        if residual is None
        else Agreement(float(torch.cat(of).mean()), float(share) if share < 1 else None, bool(solved), residual)
        for of, residual, share, solved in zip(chi2, residuals, findings["blur"], findings["converged"], strict=True)
    ]


def noise_of_data(
    profile: Tensor, degradation: Degradation, *, scale: float = 1.0, offset: float = 0.0
) -> dict[str, Any] | None:
    """Put the noise that was stated of a source beside that which its data show, on its own grid.

    Args:
        profile: Level, least and largest std of the noise **[3, n]**, in the unit of the source; see
            `medfuse.transforms.noise_profile`.
        degradation: What happened to the source.
        scale: Full range, in that unit.
        offset: What became 0.

    Returns:
        `stated`, the std in the unit of the source, at its middle level; `seen`, least and largest std of its data
        there. Where a linear step came after the noise, neighbours share it, and the largest is no less than stated.
        None where no noise was stated, or nothing is seen.
    """
    if not degradation.noises or not profile.shape[1]:
        return None
    level, *seen = profile.double()
    side = [n + more for n, more in zip((64, 64), JointDegradation(degradation).padding((64, 64))[::-2], strict=True)]
    flat = ((level - offset) / scale).clamp_min(0).reshape(-1, 1, 1, 1).expand(-1, 1, *side)
    stated = scale * sigma_map(degradation, flat).flatten(1).mean(1)
    middle = float(stated.median())
    least, most = (middle * float((std / stated).median()) for std in seen)
    if any(not isinstance(after, Identity) for _, after in degradation.noises):
        most = max(most, middle)
    return {"stated": middle, "seen": [least, most]}


def stated(degradation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a specification for the records: as it was given, without the name of a preset that it no longer is."""
    spec = dict(degradation) if degradation else {"version": 1}
    if named_as_preset(spec):
        del spec["name"]
        spec.pop("description", None)
    return {"origin": "given", **spec}


def fidelity(restored: Tensor, truth: Tensor, data_range: float) -> dict[str, float]:
    """Return PSNR (dB, at most 100: identical images) and SSIM of a restored source **[1, *spatial]**."""
    pair = (restored[None].float(), truth[None].float())
    ssim = SSIMMetric(spatial_dims=restored.ndim - 1, data_range=data_range)(*pair)
    return {"psnr": min(float(PSNRMetric(data_range)(*pair)), 100.0), "ssim": float(ssim)}


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def series_sha256(files: Sequence[str | Path]) -> str:
    """Return the SHA-256 of the sorted hashes of the files of a series, in hexadecimal."""
    return hashlib.sha256("".join(sorted(map(sha256, files))).encode()).hexdigest()

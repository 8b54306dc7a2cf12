"""Facts for the records: versions, hashes, noise of the data, distance from the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.metrics import PSNRMetric, SSIMMetric
from torch import Tensor

from medfuse.bundles import load_spec, named_as_preset
from medfuse.physics import Degradation, Identity, JointDegradation, sigma_map

DIMENSIONLESS = "normalised, dimensionless"
_PACKAGES = ("medfuse", "monai", "torch", "SimpleITK", "nibabel", "pydicom", "numpy")
_SSIM_WINDOW = 11  # voxels


def versions() -> dict[str, str]:
    """Return the versions of medfuse and of what a result depends on."""
    return {name: _version(name) for name in _PACKAGES}


_version = cache(version)  # to find it takes as long as to read a small volume


def noise_of_data(
    profile: Tensor, degradation: Degradation, *, scale: float = 1.0, offset: float = 0.0
) -> dict[str, Any] | None:
    """Put the noise that was stated of a source beside that which its data show, on its own grid.

    Args:
        profile: Level, least and largest std of the noise **[3, n]**, in the unit of the source; see
            `medfuse.estimation.noise_profile`.
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


def stated(degradation: Mapping[str, Any] | str | None, estimates: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a specification for the records: as it was given, without the name of a preset that it no longer is.

    Args:
        degradation: The specification.
        estimates: What was estimated of it, by source.
    """
    degradation = load_spec(degradation) if isinstance(degradation, str) else degradation
    spec = dict(degradation) if degradation else {"version": 1}
    if named_as_preset(spec):
        del spec["name"]
        spec.pop("description", None)
    return {"origin": "given", **spec} if estimates is None else {**spec, "origin": "estimated", "estimates": estimates}


def fidelity(restored: Tensor, truth: Tensor, data_range: float) -> dict[str, float]:
    """Return PSNR (dB, at most 100: identical images) and SSIM of a restored source **[1, *spatial]**.

    The window of SSIM is 11 voxels along each axis, or as many as there are, an odd number.
    """
    pair = (restored[None].float(), truth[None].float())
    window = [min(_SSIM_WINDOW, size - 1 + size % 2) for size in restored.shape[1:]]
    psnr = PSNRMetric(data_range)(*pair)
    ssim = SSIMMetric(spatial_dims=restored.ndim - 1, data_range=data_range, win_size=window)(*pair)
    return {"psnr": min(float(torch.as_tensor(psnr)), 100.0), "ssim": float(torch.as_tensor(ssim))}


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def series_sha256(files: Sequence[str | Path]) -> str:
    """Return the SHA-256 of the sorted hashes of the files of a series, in hexadecimal."""
    return hashlib.sha256("".join(sorted(map(sha256, files))).encode()).hexdigest()

"""What noise and blur one file shows, with nothing restored."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import LoadImage

from medfuse.errors import BundleError, unwrapped
from medfuse.estimation import ColouredNoise, coloured_noise, estimate, records_of
from medfuse.estimation.phantoms import cylinder, line_source, repeated
from medfuse.io import VolumeReader, check_nifti_header, is_nifti, read_image
from medfuse.io.acquisition import ACQUISITION
from medfuse.io.images import SUFFIXES
from medfuse.io.modalities import DEFAULT_PAIR
from medfuse.physics import parse_degradation
from medfuse.pipeline.native import measured_psf
from medfuse.report import reading_warnings
from medfuse.transforms import RegisterRigidd, ScaleIntensityAffine

_MODALITY = {"anatomy": "MR", "function": "PT"}  # of a DICOM series
_NAME = dict(zip(_MODALITY, DEFAULT_PAIR, strict=True))
_logger = logging.getLogger(__name__)
_INTERPOLATED = 1.2  # pixels over samples that were acquired, above which an image was interpolated
_SLICED = 2  # axis across which the slices of a volume lie


def estimate_file(
    path: str | Path,
    kind: str,
    *,
    mri: str | Path | None = None,
    aligned: bool = False,
    nonfinite: str = "error",
    strict: bool = False,
) -> list[dict[str, Any]]:
    """Estimate blur and noise of an image or a volume on its own grid; what is doubtful about the file is logged.

    Args:
        path: A 2-D image, of one in colour its green is taken; a NIfTI; or a folder or file of DICOM.
        kind: What it shows, one of `medfuse.estimation.KINDS`.
        mri: MRI of the same head, by which the PSF of a PET or SPECT is measured.
        aligned: Both share one world frame; else they are registered.
        nonfinite: NaN and infinity in a NIfTI: refuse it ("error"), or let them count as 0 ("zero").
        strict: Refuse a NIfTI whose sform and qform disagree.

    Returns:
        What was found of each step, see `medfuse.estimation.Estimate.record`; of a functional volume also, under
        `coloured`, its noise on its own grid, see `medfuse.estimation.coloured_noise`, and with an MRI its PSF; of an
        MRI also how thick its slices are. Levels are fractions of full range, of a volume of its largest value.

    Raises:
        MedfuseError: The file cannot be read, or an MRI is given for what is no functional volume.
    """
    path = Path(path)
    options: dict[str, Any] = {"nonfinite": nonfinite, "strict": strict}
    flat = path.suffix.lower() in SUFFIXES
    if mri is not None and (kind != "function" or flat):
        raise BundleError("an MRI must come with a functional volume, got another image; leave out --mri.")
    if flat:
        image = read_image(path, color=True).array
        planes = torch.from_numpy(np.ascontiguousarray(image[..., 1] if image.ndim == 3 else image))
        across = None
    else:
        volume = read_volume(path, kind, **options)
        planes = torch.as_tensor(ScaleIntensityAffine()(volume)[0]).as_subclass(torch.Tensor)
        across = _SLICED
    spec = parse_degradation({"version": 1, "source1": "auto"})
    found = estimate(spec, torch.stack([planes, planes]), (kind, kind), cut=across is None, across=across)
    records = records_of(found.estimates)["source1"]
    if across is None:
        return records
    if kind == "function":
        spacing = affine_to_spacing(volume.affine).tolist()
        noise = coloured_noise(volume.as_tensor()[0].numpy(), spacing)
        records[-1] |= {"coloured": noise and noise.record, "rests_on": _told(noise)}
        if mri is not None:
            records = [_psf(volume, read_volume(Path(mri), "anatomy", **options), aligned=aligned), *records[1:]]
    elif kind == "anatomy":
        records.append(_thickness(volume))
    return records


def read_volume(path: Path, kind: str, *, nonfinite: str = "error", strict: bool = False) -> MetaTensor:
    """Return a volume **[1, X, Y, Z]**; what is doubtful about its file is logged.

    Raises:
        MedfuseError: The file cannot be read.
    """
    reader = VolumeReader(modality=_MODALITY.get(kind), suv="none", nonfinite=nonfinite, strict=strict)
    with unwrapped():
        volume: MetaTensor = LoadImage(reader=reader, ensure_channel_first=True)(path)
    placed = {"placement": check_nifti_header(path).placement} if is_nifti(path) else {}
    for text in reading_warnings(_NAME[kind], volume.meta | placed):
        _logger.warning("%s", text)
    return volume


def measure_phantom(
    path: str | Path, phantom: str, *, second: str | Path | None = None, kind: str = "function", **options: Any
) -> dict[str, Any]:
    """Measure noise or PSF by a scan of a phantom, see `medfuse.estimation.phantoms`.

    Args:
        path: A NIfTI, or a folder or file of DICOM.
        phantom: `cylinder`, `line`, or `repeat`, which needs the second scan.
        second: The repeated scan.
        kind: What is scanned, `function` or `anatomy`.
        options: `nonfinite` and `strict`, as of `estimate_file`.

    Raises:
        MedfuseError: The file cannot be read, or shows no such phantom.
    """
    if kind not in _NAME:
        raise BundleError(f"a phantom must be a volume of kind anatomy or function, got {kind}; change it.")
    if (phantom == "repeat") != (second is not None):
        raise BundleError("a repeated scan must be given with --phantom repeat --second FILE, got one of them.")
    volume = read_volume(Path(path), kind, **options)
    values, spacing = volume.as_tensor()[0].numpy(), affine_to_spacing(volume.affine).tolist()
    if second is not None:
        found = repeated(values, read_volume(Path(second), kind, **options).as_tensor()[0].numpy())
    else:
        found = (cylinder if phantom == "cylinder" else line_source)(values, spacing)
    return {"phantom": phantom, **asdict(found)}


def phantom_sentence(found: Mapping[str, Any]) -> str:
    """Return what a phantom measured, and how it is stated, as a sentence."""
    value, spread = found["value"], found["spread"]
    if found["phantom"] == "line":
        axes = ", ".join(
            f"{v:.2f} +- {s:.2f} mm along axis {name}"
            for name, v, s in zip("xyz", value, spread, strict=True)
            if v is not None
        )
        said = max(v for v in value if v is not None)
        return f"The FWHM of the PSF is {axes} ({found['count']} slices across the line); state it: --psf {said:.1f}."
    if found["phantom"] == "cylinder":
        return (
            f"The noise of the cylinder is {value[0]:.1%} +- {spread[0]:.1%} of its mean of {found['mean']:.4g} "
            f"({found['count']} voxels); of a patient it is that over the square root of the ratio of counts."
        )
    return (
        f"The noise of one of the repeated scans has a standard deviation of {value[0]:.4g} +- {spread[0]:.2g}, at a "
        f"mean of {found['mean']:.4g} ({found['count']} voxels); state it: "
        f"noise: {{sigma: {value[0]:.4g}, unit: input}}."
    )


def _psf(pet: MetaTensor, mri: MetaTensor, *, aligned: bool) -> dict[str, Any]:
    """Return what an MRI tells of the PSF of a PET."""
    one, two = DEFAULT_PAIR
    with unwrapped():
        placed = RegisterRigidd(one, two, aligned=aligned or None)({one: mri, two: pet})
    return measured_psf(placed[two], mri, refine=bool(placed[f"{two}_registration"].get("performed", False)))


def _thickness(volume: MetaTensor) -> dict[str, Any]:
    """Return how thick the slices of an MRI are, as the record of an estimate: their profile blurs across them."""
    spacing = [float(s) for s in affine_to_spacing(volume.affine)]
    across = int(np.argmax(spacing))
    noted = volume.meta.get(ACQUISITION)
    said = json.loads(str(noted)) if noted is not None else {}
    thick = said.get("thickness_mm")
    rests = "the slice thickness in the header" if thick else "the distance of slices; the file does not say how thick"
    matrix = max(said.get("matrix") or [0])
    if matrix and max(volume.shape[1:]) > _INTERPOLATED * matrix:
        rests += f"; {matrix} samples were acquired in the plane, so its pixels are interpolated"
    return {
        "step": "slices",
        "value": thick or spacing[across],
        "interval": None,
        "kind": None,
        "stated": None,
        "rests_on": rests,
        "refused": "slices are restored one by one, which undoes no blur across them",
    }


def _told(noise: ColouredNoise | None) -> str:
    """Return what is known of the noise of a volume on its own grid, in words."""
    if noise is None:
        return "too little of the volume is flat to tell its noise on its own grid"
    widths = " x ".join(f"{width:.1f}" for width in noise.kernel_mm)
    grows = "" if noise.exponent is None else f"grows as the uptake to the {noise.exponent:.1f}, "
    return (
        f"on its own grid its standard deviation is at most about {noise.relative_std:.0%} of an uptake of "
        f"{noise.uptake:.3g}, {grows}and neighbours share it as after a Gaussian of {widths} mm FWHM; fine structure "
        "that is left counts as noise"
    )

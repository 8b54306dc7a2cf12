"""What noise and blur one file shows, with nothing restored."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.utils import affine_to_spacing
from monai.transforms import LoadImage

from medfuse.errors import unwrapped
from medfuse.estimation import ColouredNoise, coloured_noise, estimate, records_of
from medfuse.io import VolumeReader, check_nifti_header, is_nifti, read_image
from medfuse.io.images import SUFFIXES
from medfuse.io.modalities import DEFAULT_PAIR
from medfuse.physics import parse_degradation
from medfuse.report import reading_warnings
from medfuse.transforms import ScaleIntensityAffine

_MODALITY = {"anatomy": "MR", "function": "PT"}  # of a DICOM series
_NAME = dict(zip(_MODALITY, DEFAULT_PAIR, strict=True))
_logger = logging.getLogger(__name__)
_SLICED = 2  # axis across which the slices of a volume lie


def estimate_file(
    path: str | Path, kind: str, *, nonfinite: str = "error", strict: bool = False
) -> list[dict[str, Any]]:
    """Estimate blur and noise of an image or a volume on its own grid; what is doubtful about the file is logged.

    Args:
        path: A 2-D image, of one in colour its green is taken; a NIfTI; or a folder or file of DICOM.
        kind: What it shows, one of `medfuse.estimation.KINDS`.
        nonfinite: NaN and infinity in a NIfTI: refuse it ("error"), or let them count as 0 ("zero").
        strict: Refuse a NIfTI whose sform and qform disagree.

    Returns:
        What was found of each step, see `medfuse.estimation.Estimate.record`; of a functional volume also, under
        `coloured`, its noise on its own grid, see `medfuse.estimation.coloured_noise`. Levels are fractions of full
        range, of a volume of its largest value.

    Raises:
        MedfuseError: The file cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() in SUFFIXES:
        image = read_image(path, color=True).array
        planes = torch.from_numpy(np.ascontiguousarray(image[..., 1] if image.ndim == 3 else image))
        across = None
    else:
        reader = VolumeReader(modality=_MODALITY.get(kind), suv="none", nonfinite=nonfinite, strict=strict)
        with unwrapped():
            volume = LoadImage(reader=reader, ensure_channel_first=True)(path)
        placed = {"placement": check_nifti_header(path).placement} if is_nifti(path) else {}
        for text in reading_warnings(_NAME[kind], volume.meta | placed):
            _logger.warning("%s", text)
        planes = torch.as_tensor(ScaleIntensityAffine()(volume)[0]).as_subclass(torch.Tensor)
        across = _SLICED
    spec = parse_degradation({"version": 1, "source1": "auto"})
    found = estimate(spec, torch.stack([planes, planes]), (kind, kind), cut=across is None, across=across)
    records = records_of(found.estimates)["source1"]
    if kind == "function" and across is not None:
        spacing = affine_to_spacing(volume.affine).tolist()
        noise = coloured_noise(volume.as_tensor()[0].numpy(), spacing)
        records[-1] |= {"coloured": noise and noise.record, "rests_on": _told(noise)}
    return records


def _told(noise: ColouredNoise | None) -> str:
    """Return what is known of the noise of a volume on its own grid, in words."""
    if noise is None:
        return "too little of the volume is flat to tell its noise on its own grid"
    widths = " x ".join(f"{width:.1f}" for width in noise.kernel_mm)
    return (
        f"on its own grid its standard deviation is about {noise.relative_std:.0%} of an uptake of {noise.uptake:.3g}, "
        f"grows as the uptake to the {noise.exponent:.1f}, and neighbours share it as after a Gaussian of {widths} mm "
        "FWHM"
    )

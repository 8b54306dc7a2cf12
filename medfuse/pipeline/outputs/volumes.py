"""The volumes of a case, as NIfTI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medfuse.io import write_nifti, write_rgb_nifti
from medfuse.pipeline.facts import DIMENSIONLESS
from medfuse.pipeline.result import CaseResult
from medfuse.transforms import BIAS_FIELD


def write_volumes(result: CaseResult, folder: Path) -> None:
    """Write fused, restored sources, weight and colour fusion as NIfTI."""
    case, affine, (low, high) = result.case, result.affine, result.window
    limits: dict[str, Any]
    write_nifti(folder / f"{case}_fused.nii.gz", result.fused, affine, unit_description=DIMENSIONLESS)
    for k, (name, unit, volume) in enumerate(zip(result.names, result.units, result.restored, strict=True)):
        limits = {} if k == 0 else {"cal_min": low, "cal_max": high}
        said = f"{unit}, bias field removed" if result.record["sources"][name].get(BIAS_FIELD) else unit
        write_nifti(folder / f"{case}_{name}_restored.nii.gz", volume, affine, unit_description=said, **limits)
    share = f"weight of {result.names[0]}, 0 to 1"
    write_nifti(folder / f"{case}_weight.nii.gz", result.weight, affine, unit_description=share)
    write_rgb_nifti(folder / f"{case}_fused_rgb.nii.gz", result.rgb, affine)

"""The volumes of a case, as NIfTI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medfuse.io import write_nifti, write_rgb_nifti
from medfuse.pipeline.facts import DIMENSIONLESS
from medfuse.pipeline.result import CaseResult
from medfuse.transforms import BIAS_FIELD


def write_fused(result: CaseResult, path: Path) -> None:
    """Write the fused volume."""
    write_nifti(path, result.fused, result.affine, unit_description=DIMENSIONLESS)


def write_restored(result: CaseResult, path: Path, *, source: int) -> None:
    """Write a restored source in its unit; the second with the ends of its display window."""
    unit, low, high = result.units[source], *result.window
    if result.record["sources"][result.names[source]].get(BIAS_FIELD):
        unit = f"{unit}, bias field removed"
    limits: dict[str, Any] = {} if source == 0 else {"cal_min": low, "cal_max": high}
    write_nifti(path, result.restored[source], result.affine, unit_description=unit, **limits)


def write_deviation(result: CaseResult, path: Path, *, source: int) -> None:
    """Write the standard deviation of each voxel of a restored source, in its unit, where it is known."""
    deviation = result.deviations[source]
    if deviation is not None:
        write_nifti(path, deviation, result.affine, unit_description=f"std, {result.units[source]}")


def write_invented(result: CaseResult, path: Path, *, source: int) -> None:
    """Write what was invented of a restored source, in its unit, where it is known."""
    invented = result.invented[source]
    if invented is not None:
        write_nifti(path, invented, result.affine, unit_description=f"invented, {result.units[source]}")


def write_fused_deviation(result: CaseResult, path: Path) -> None:
    """Write the standard deviation of each voxel of the fused image, in its display units, where it is known."""
    if result.fused_deviation is not None:
        write_nifti(path, result.fused_deviation, result.affine, unit_description=f"std, {DIMENSIONLESS}")


def write_gate(result: CaseResult, path: Path) -> None:
    """Write where the data alone decided on source 2, and where the other source guided, where it is known."""
    if result.gate is not None:
        write_nifti(path, result.gate, result.affine, unit_description="gate, 0 guided to 1 data alone")


def write_weight(result: CaseResult, path: Path) -> None:
    """Write the weight of source 1 in the fusion."""
    write_nifti(path, result.weight, result.affine, unit_description=f"weight of {result.names[0]}, 0 to 1")


def write_color(result: CaseResult, path: Path) -> None:
    """Write the colour fusion."""
    write_rgb_nifti(path, result.rgb, result.affine)

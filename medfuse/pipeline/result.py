"""A fused case, before anything is written of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from medfuse.fusion import ColourFusion
from medfuse.io.modalities import titles
from medfuse.report.numbers import number_text

LARGE = 50_000_000
"""Voxels of a case from which copies of two of its volumes at once are too much: 0.4 GB and more."""


@dataclass(frozen=True, eq=False)
class SourceAgreement:
    """What the data say of the restoration of a source to which something happened.

    Attributes:
        chi2: Chi-square per datum of the residual, mean over the slices: about 1 when the restoration explains the
            data.
        narrowed_blur: Share of its stated width to which the blur was undone, where the data show it to be narrower;
            None where it was undone as stated, or none was.
        converged: Whether the last correction was solved to its tolerance: conjugate gradients stop after 60 rounds.
        residual: What the restoration leaves of its data **[X, Y, Z]**, in standard deviations of the noise, float16:
            to look at, see `medfuse.physics.Agreement`.
    """

    chi2: float
    narrowed_blur: float | None
    converged: bool
    residual: Tensor


@dataclass(frozen=True, eq=False)
class CaseResult:
    """A fused case, ready to be written: volumes **[X, Y, Z]** on the reference grid, and their record.

    Attributes:
        case: Its name.
        names: Names of the sources, such as `mri` and `pet`.
        affine: **[4, 4]**, voxel index to RAS mm.
        units: Units of the sources.
        sources: Both as given, each in its unit.
        restored: Both restored, each in its unit.
        fused: Normalised, dimensionless.
        weight: Weight of source 1 in the fusion, 0..1.
        windows: Ends of the display window of each source, in its unit.
        colours: How both become one colour image.
        rgb: Colour fusion **[X, Y, Z, 3]**, uint8, for the eye; see `medfuse.fusion.read_back`.
        record: What the JSON sidecar holds.
        files: DICOM files of each source; none for a NIfTI.
        agreements: What the data say of each restoration; None where nothing happened to it.
        mask: Labels **[X, Y, Z]**; None without.
        sr: Write the values of regions as DICOM, too.
        deidentified: Leave blank what names the patient, wherever it would be written.
        before: Gives the registered source as it lay before, interpolated once, in its unit; None without a
            registration, or where it lay outside the grid.
        deviations: Standard deviation of each voxel of both restored sources **[X, Y, Z]**, in their units; None where
            none was asked for, or nothing happened to the source.
        fused_deviation: Standard deviation of each voxel of the fused image **[X, Y, Z]**, in its own display units;
            likewise.
        invented: What was invented of both: restored less what the data alone say **[X, Y, Z]**, in their units;
            likewise.
        gate: Share of the data alone in source 2 **[X, Y, Z]**, 0..1, where it was restored on its own grid and an
            uncertainty was asked for; else None.
    """

    case: str
    names: tuple[str, str]
    affine: np.ndarray
    units: tuple[str, str]
    sources: tuple[Tensor, Tensor]
    restored: tuple[Tensor, Tensor]
    fused: Tensor
    weight: Tensor
    windows: tuple[tuple[float, float], tuple[float, float]]
    colours: ColourFusion
    rgb: np.ndarray
    record: dict[str, Any]
    files: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    agreements: tuple[SourceAgreement | None, SourceAgreement | None] = (None, None)
    mask: Tensor | None = None
    sr: bool = False
    deidentified: bool = False
    before: Callable[[], Tensor | None] = lambda: None
    deviations: tuple[Tensor | None, Tensor | None] = (None, None)
    fused_deviation: Tensor | None = None
    invented: tuple[Tensor | None, Tensor | None] = (None, None)
    gate: Tensor | None = None

    @property
    def window(self) -> tuple[float, float]:
        """Ends of the display window of source 2, in its unit."""
        return self.windows[1]

    @property
    def colour_key(self) -> str:
        """What the colours mean, in a sentence with the windows of both sources."""
        shown = [
            f"{name} {number_text(low)} to {number_text(high)} {unit}"
            for name, (low, high), unit in zip(titles(self.names), self.windows, self.units, strict=True)
        ]
        return self.colours.described((shown[0], shown[1]))

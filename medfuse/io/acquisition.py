"""What is said of how sharp an image can be, by headers or sidecars; and what BIDS's sidecars of a PET say of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

ACQUISITION = "acquisition"
"""The key of what is said of it, as JSON, in the metadata of an image."""
_FILTERS = (r"GAUSS(?:IAN)?\s*:?\s*(\d+(?:\.\d+)?)", r"(\d+(?:\.\d+)?)\s*MM")  # such as `XYZ Gauss4.00`, `6.4 mm`
_MODELLED = (
    r"(?<![A-Z])PSF|POINT.?SPREAD|TRUEX|SHARP ?IR|\bVP(?:FX|HD)-?S|ASTONISH|EVOLUTION"  # of makers and of PET2BIDS
)
_WIDEST = 20.0  # mm


@dataclass(frozen=True)
class Acquisition:
    """What one header says.

    Attributes:
        filter_mm: FWHM of the Gaussian filter after the reconstruction, mm, where the name of the kernel holds it.
        models_psf: Whether the reconstruction models the PSF: then edges overshoot, and no Gaussian describes them.
        thickness_mm: Slice thickness, mm.
        matrix: Numbers of samples that were acquired in the plane, as they stand in the header, 0 left out.
    """

    filter_mm: float | None = None
    thickness_mm: float | None = None
    matrix: tuple[int, ...] = ()
    models_psf: bool = False

    @property
    def record(self) -> dict[str, Any]:
        """The same as JSON, without what is not said."""
        return {key: value for key, value in asdict(self).items() if value}


def sidecar_acquisition(fields: Mapping[str, Any]) -> Acquisition:
    """Read what the sidecars of a NIfTI PET say, likewise.

    BIDS has `ReconFilterType` and `ReconFilterSize`, one or one of each filter, or a size of each axis, of which the
    least counts; `unknown` and `none` say nothing. dcm2niix writes `ConvolutionKernel`.

    Reference:
        BIDS 1.10, Positron Emission Tomography, "Reconstruction".
    """
    kinds, sizes = (_listed(fields.get(name)) for name in ("ReconFilterType", "ReconFilterSize"))
    kinds = kinds * len(sizes) if len(kinds) == 1 else kinds
    pairs = zip(kinds, sizes, strict=False)
    numbers = [s for kind, s in pairs if "GAUSS" in str(kind)[:64].upper() and type(s) in (int, float)]
    widths = [float(s) for s in numbers if 0 < s <= _WIDEST]
    kernel = tuple(str(v) for v in _listed(fields.get("ConvolutionKernel")))
    names = [str(v) for key in ("ReconMethodName", "ReconstructionMethod") for v in _listed(fields.get(key))]
    return Acquisition(min(widths, default=None) or filter_named(kernel), models_psf=models_psf(tuple(names)))


def filter_named(texts: Sequence[str]) -> float | None:
    """Return the FWHM that the name of a kernel holds, mm; names are the makers' own."""
    for pattern in _FILTERS:
        for text in texts:
            if (found := re.search(pattern, text[:64].upper())) and 0 < float(found[1]) <= _WIDEST:
                return float(found[1])
    return None


def models_psf(texts: Sequence[str]) -> bool:
    """Return whether a reconstruction of such a name models the PSF; names are the makers' own."""
    return any(re.search(_MODELLED, text[:256].upper()) for text in texts)


def _listed(value: Any) -> list[Any]:
    return value[:8] if isinstance(value, list) else [] if value is None else [value]

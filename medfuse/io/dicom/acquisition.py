"""What a header says of how sharp an image can be: filter of the reconstruction, slice thickness, acquired matrix."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from medfuse.errors import DicomError
from medfuse.io.dicom.values import Values

KEYWORDS = ("ConvolutionKernel", "SliceThickness", "AcquisitionMatrix")
"""PS3.3 C.8.9.1 (PET Series), C.7.6.2 (Image Plane) and C.8.3.1 (MR Image)."""
_FILTERS = (r"GAUSS(?:IAN)?\s*:?\s*(\d+(?:\.\d+)?)", r"(\d+(?:\.\d+)?)\s*MM")  # such as `XYZ Gauss4.00`, `6.4 mm`
_WIDEST, _THICKEST = 20.0, 50.0  # mm


@dataclass(frozen=True)
class Acquisition:
    """What one header says.

    Attributes:
        filter_mm: FWHM of the Gaussian filter after the reconstruction, mm, where the name of the kernel holds it.
        thickness_mm: Slice thickness, mm.
        matrix: Numbers of samples that were acquired in the plane, as they stand in the header, 0 left out.
    """

    filter_mm: float | None = None
    thickness_mm: float | None = None
    matrix: tuple[int, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """The same as JSON, without what is not said."""
        return {key: value for key, value in asdict(self).items() if value}


def read_acquisition(values: Values) -> Acquisition:
    """Read what there is; what cannot be read says nothing, for no voxel depends on it."""
    return Acquisition(_filter(_texts(values, "ConvolutionKernel")), _thickness(values), _matrix(values))


def _texts(values: Values, name: str) -> tuple[str, ...]:
    try:
        return values.texts(name)
    except DicomError:
        return ()


def _filter(texts: tuple[str, ...]) -> float | None:
    """Return the FWHM that the name of a kernel holds, mm; names are the makers' own."""
    for pattern in _FILTERS:
        for text in texts:
            if (found := re.search(pattern, text[:64].upper())) and 0 < float(found[1]) <= _WIDEST:
                return float(found[1])
    return None


def _thickness(values: Values) -> float | None:
    try:
        found = values.number("SliceThickness")
    except DicomError:
        return None
    return found if found is not None and 0 < found <= _THICKEST else None


def _matrix(values: Values) -> tuple[int, ...]:
    texts = _texts(values, "AcquisitionMatrix")[:4]
    return tuple(int(text) for text in texts if text.isascii() and text.isdigit() and int(text))

"""What a header says of how sharp an image can be: reconstruction and filter, slice thickness, acquired matrix."""

from __future__ import annotations

from medfuse.errors import DicomError
from medfuse.io.acquisition import Acquisition, filter_named, models_psf
from medfuse.io.dicom.values import Values

KEYWORDS = ("ConvolutionKernel", "ReconstructionMethod", "SliceThickness", "AcquisitionMatrix")
"""PS3.3 C.8.9.1 (PET Series), C.7.6.2 (Image Plane) and C.8.3.1 (MR Image)."""
_THICKEST = 50.0  # mm


def read_acquisition(values: Values) -> Acquisition:
    """Read what there is; what cannot be read says nothing, for no voxel depends on it."""
    method = models_psf(_texts(values, "ReconstructionMethod"))
    return Acquisition(filter_named(_texts(values, "ConvolutionKernel")), _thickness(values), _matrix(values), method)


def _texts(values: Values, name: str) -> tuple[str, ...]:
    try:
        return values.texts(name)
    except DicomError:
        return ()


def _thickness(values: Values) -> float | None:
    try:
        found = values.number("SliceThickness")
    except DicomError:
        return None
    return found if found is not None and 0 < found <= _THICKEST else None


def _matrix(values: Values) -> tuple[int, ...]:
    texts = _texts(values, "AcquisitionMatrix")[:4]
    return tuple(int(text) for text in texts if text.isascii() and text.isdigit() and int(text))

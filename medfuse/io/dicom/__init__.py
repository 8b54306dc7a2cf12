"""DICOM in: list and choose series, check them, load them.

`header` reads one file, with `values`, `planes` and `pet` for its parts; `series` makes volumes of files and chooses
one; `volume` decodes it; `reader` is what MONAI calls.
"""

from medfuse.io.dicom.listing import listing
from medfuse.io.dicom.reader import DicomReader, VolumeReader, is_nifti, open_series, series_suv
from medfuse.io.dicom.series import Folder, Series, choose_series, list_series, require_one_person
from medfuse.io.dicom.volume import load_volume, measure

__all__ = [
    "DicomReader",
    "Folder",
    "Series",
    "VolumeReader",
    "choose_series",
    "is_nifti",
    "list_series",
    "listing",
    "load_volume",
    "measure",
    "open_series",
    "require_one_person",
    "series_suv",
]

"""Files in and out. What is asked for is loaded when it is: the tables and rules of a package need no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medfuse.io.atomic import atomic_file, atomic_folder, atomic_path, require_writable, write_json
    from medfuse.io.cases import find_cases, require_cases
    from medfuse.io.dicom import (
        DicomReader,
        Series,
        VolumeReader,
        choose_series,
        is_nifti,
        list_series,
        listing,
        measure,
        open_series,
        require_one_person,
        series_suv,
    )
    from medfuse.io.discovery import Discovery, discover
    from medfuse.io.foreign import require_volume
    from medfuse.io.image_pairs import check_pair, match_folders, match_manifest, size_factor
    from medfuse.io.images import Image2D, check_range, read_image, write_image
    from medfuse.io.nifti import NiftiReader, write_nifti, write_rgb_nifti
    from medfuse.io.nifti_files import check_nifti, check_nifti_header
    from medfuse.io.nonfinite import NONFINITE

__all__ = [
    "NONFINITE",
    "DicomReader",
    "Discovery",
    "Image2D",
    "NiftiReader",
    "Series",
    "VolumeReader",
    "atomic_file",
    "atomic_folder",
    "atomic_path",
    "check_nifti",
    "check_nifti_header",
    "check_pair",
    "check_range",
    "choose_series",
    "discover",
    "find_cases",
    "is_nifti",
    "list_series",
    "listing",
    "match_folders",
    "match_manifest",
    "measure",
    "open_series",
    "read_image",
    "require_cases",
    "require_one_person",
    "require_volume",
    "require_writable",
    "series_suv",
    "size_factor",
    "write_image",
    "write_json",
    "write_nifti",
    "write_rgb_nifti",
]

_HOMES = {  # by module, the names that are asked for here
    "atomic": "atomic_file atomic_folder atomic_path require_writable write_json",
    "cases": "find_cases require_cases",
    "dicom": "DicomReader Series VolumeReader choose_series is_nifti list_series listing measure open_series "
    "require_one_person series_suv",
    "discovery": "Discovery discover",
    "foreign": "require_volume",
    "image_pairs": "check_pair match_folders match_manifest size_factor",
    "images": "Image2D check_range read_image write_image",
    "nifti": "NiftiReader write_nifti write_rgb_nifti",
    "nifti_files": "check_nifti check_nifti_header",
    "nonfinite": "NONFINITE",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

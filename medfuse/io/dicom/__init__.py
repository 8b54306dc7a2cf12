"""DICOM in: list and choose series, check them, load them. What is asked for is loaded when it is.

`header` reads one file, with `values`, `planes` and `pet` for its parts; `series` makes volumes of files and chooses
one; `volume` decodes it; `reader` is what MONAI calls. All but `reader` do without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medfuse.io.dicom.lines import listing
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

_HOMES = {  # by module, the names that are asked for here
    "lines": "listing",
    "reader": "DicomReader VolumeReader is_nifti open_series series_suv",
    "series": "Folder Series choose_series list_series require_one_person",
    "volume": "load_volume measure",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

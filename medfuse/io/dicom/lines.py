"""What a folder holds, line by line, for a reader who chooses a series."""

from __future__ import annotations

from collections.abc import Iterator

from medfuse.errors import DicomError
from medfuse.io.dicom.others import describe
from medfuse.io.dicom.reader import series_suv
from medfuse.io.dicom.series import Folder, Series
from medfuse.io.dicom.volume import measure


def listing(folder: Folder) -> Iterator[str]:
    """Give lines: each series, with its doubts, SUV of a PET, its warnings or why there is none; other files."""
    for series in folder.series:
        yield series.describe()
        for text in series.doubts:
            yield f"  warning: the series {text}"
        if series.modality == "PT" and not series.problem:
            yield from _suv(series)
    yield from describe(folder.classes)
    for problem in folder.unreadable:
        yield f"unreadable: {problem}"
    yield f"{len(folder.series)} series, {folder.others} other files, {len(folder.unreadable)} unreadable files"


def _suv(series: Series) -> Iterator[str]:
    try:
        record = series_suv(series, content=measure(series)).record
    except DicomError as error:  # of pixels that cannot be decoded, or slices that contradict each other
        record = {"kind": "none", "reason": str(error)}
    yield f"  {'no SUV' if record['kind'] == 'none' else 'SUV'}: {record.get('reason') or record['rule']}"
    for text in record.get("warnings", ()):
        yield f"  warning: {text}"

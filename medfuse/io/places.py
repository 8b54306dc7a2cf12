"""Where inputs and outputs lie: apart, so that no run replaces what it reads, or reads what another wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError
from medfuse.io.modalities import MODALITIES

DICOM_FOLDER = "dicom"  # of a case's results, with a folder for each series


def input_paths(item: Mapping[str, Any]) -> dict[str, Path]:
    """Return the inputs of a case that are files or folders, by key."""
    keys = (
        k
        for k in item
        if k in MODALITIES or k in ("mask", "labels") or k.startswith("truth_") or k.endswith("_transform")
    )
    return {key: Path(str(item[key])) for key in keys}


def require_apart(items: Iterable[Mapping[str, Any]], out: str | Path, folder: Callable[[str], Path]) -> None:
    """Refuse an OUT in an input, results in a place of an input, and results of one case in the folder of another.

    Args:
        items: The cases.
        out: Folder for the results.
        folder: Returns the folder of a case's results by its id.

    Raises:
        BundleError: If they do not lie apart.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise BundleError("OUT must be a folder, got a file; choose another.")
    inputs = {str(item["case"]): [path.resolve() for path in input_paths(item).values()] for item in items}
    root, places = out.resolve(), {folder(case).resolve() for case in inputs}
    for case, paths in inputs.items():
        for path in paths:
            if root.is_relative_to(path) or not places.isdisjoint((path, *path.parents)):
                raise BundleError(f"OUT must lie apart from the inputs, got those of {case}; choose another.")
            home = _home(case, path)
            if len(inputs) > 1 and home is not None and root.is_relative_to(home):
                raise BundleError(f"OUT must lie outside of the folders of cases, got that of {case}; choose another.")


def is_result(path: Path) -> bool:
    """Return whether a DICOM file lies where runs write them: `CASE/dicom/SERIES/`, beside the record of the case."""
    if len(path.parts) < 4 or path.parts[-3] != DICOM_FOLDER:
        return False
    case = path.parents[2]
    return (case / _record(case)).is_file()


def is_result_folder(folder: Path) -> bool:
    """Return whether a folder holds the results of a case."""
    return (folder / _record(folder)).is_file() and (folder / f"{folder.name}_fused.nii.gz").is_file()


def _record(folder: Path) -> str:
    return f"{folder.name}.json"


def _home(case: str, path: Path) -> Path | None:
    """Return the folder that is a case's own, by its name: that of the case, or of a subject of BIDS."""
    names = {case, case.split("_ses-")[0]} if case.startswith("sub-") else {case}
    return next((parent for parent in list(path.parents)[:3] if parent.name in names), None)

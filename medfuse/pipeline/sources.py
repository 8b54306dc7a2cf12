"""The sources of one case as a person names them: checked before a bundle is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medfuse.errors import MedfuseError
from medfuse.io import check_nifti, is_nifti, measure, open_series, require_volume, series_suv
from medfuse.io.dicom.regions import check_regions, regions_file
from medfuse.io.dicom.volume import choose_of
from medfuse.io.frames import choose_frames
from medfuse.io.modalities import Modality
from medfuse.io.pet_sidecar import read_pet_sidecar
from medfuse.io.sidecars import sidecar_units


def mask_entry(path: Path, *, strict: bool) -> str:
    """Return the path of the regions of a case.

    Raises:
        MedfuseError: If it is neither a NIfTI nor a SEG or RTSTRUCT, or cannot be used.
    """
    if is_nifti(path):
        check_nifti(path, strict=strict)
    else:
        require_volume(path)
        check_regions(regions_file(path))
    return str(path.absolute())


def source_entries(
    row: Modality,
    path: Path,
    *,
    case: str,
    uid: str | None = None,
    unit: str | None = None,
    suv: str = "auto",
    frames: str | None = None,
    strict: bool = False,
) -> tuple[dict[str, object], str]:
    """Check a source, and return its entries of the case, and a sentence about its SUV or an empty one.

    Args:
        row: What it is.
        path: NIfTI, or a folder or file of DICOM.
        case: Id of the case.
        uid: Which series of DICOM.
        unit: Unit of a NIfTI, as a person states it.
        suv: One of `medfuse.io.suv.CHOICES`.
        frames: Which frames of a dynamic PET, see `medfuse.io.frames`.
        strict: Refuse a NIfTI whose sform and qform disagree.

    Raises:
        MedfuseError: If it cannot be used so.
    """
    key = row.key
    entries: dict[str, Any] = {key: str(path.absolute())}
    chosen = {f"{key}_frames": frames} if row.has_uptake and frames is not None else {}
    if is_nifti(path):
        info = check_nifti(path, strict=strict, dynamic=row.has_uptake)
        stated = {f"{key}_unit": unit} if unit else {}
        units = sidecar_units({"case": case, **entries}, stated, [key])
        if row.has_uptake:
            sidecar = read_pet_sidecar(path)
            timing = sidecar.timing(info.frames) if info.frames > 1 else None
            choose_frames(frames, info.frames, timing)
            if row.has_suv and suv not in ("auto", "none"):
                sidecar.suv(suv, timing)
        return entries | chosen | stated | units, ""
    require_volume(path)
    series = open_series(path, modality=row.dicom, uid=uid)
    if unit:
        raise MedfuseError(f"--{key}-unit must come with a NIfTI, got DICOM, whose headers say it; leave it out.")
    choice = choose_of(series, frames if row.has_uptake else None)
    said = ""
    if row.has_suv:
        found = series_suv(series, suv, content=None if suv == "none" else measure(series, choice))
        why = found.record.get("reason") or found.record["rule"]
        said = f"{row.title}: {'no SUV' if found.record['kind'] == 'none' else found.unit}, {why}"
    return entries | chosen | {f"{key}_series": series.uid}, said

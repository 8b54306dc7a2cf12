"""A case as DICOM: which series, by which source they are filed, in which unit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from medfuse.errors import DicomError
from medfuse.io.places import DICOM_FOLDER
from medfuse.pipeline.facts import DIMENSIONLESS
from medfuse.pipeline.result import CaseResult

DICOM_SERIES = ("pet_restored", "fused", "fused_rgb", "fused_rgb_multiframe")
"""Folders of the series, and their names."""


def write_dicom(result: CaseResult, folder: Path, *, deidentified: bool = False) -> None:
    """Write restored PET, fused volume and colour fusion as DICOM series, where a source was DICOM.

    Under `folder/dicom/`: `pet_restored`, `fused`, `fused_rgb`, `fused_rgb_multiframe`. All lie in the frame of
    reference of the source with the grid; the fused series belong to its study, the restored PET to the PET's.

    Args:
        result: The case.
        folder: Its folder.
        deidentified: Leave blank what names the patient.

    Raises:
        DicomError: If the sources are not of one patient, or DICOM cannot hold the result.
    """
    if not any(result.files):
        return
    from medfuse.io.dicom import write  # half a second of imports, which not every case needs

    read = [write.read_reference(files) if files else None for files in result.files]
    sources = tuple(source for source in read if source is not None)
    if len({source.patient for source in sources if source.patient}) > 1:  # files may have changed since they were read
        raise DicomError("PET and MRI must be of one patient for DICOM output, got two PatientIDs; do without it.")
    key = _identity(result, deidentified)
    grid = read[result.names.index(result.record["reference"]["source"])]
    registration = result.record["registration"]
    world = (grid or sources[0]).frame_of_reference
    if grid is None and registration and registration["performed"] and registration["accepted"]:
        world = ""  # that of a NIfTI, which has no name
    derivation = write.Derivation(sources, world or write.make_uid(key, "world"), key, deidentified)
    origin, pet, home, affine = grid or sources[0], read[1], folder / DICOM_FOLDER, result.affine
    restored, unit = result.restored[1].numpy(), result.units[1]
    if pet is not None and pet.is_classic_pet:
        units, suv_type = write.pet_units(result.record["sources"][result.names[1]]["suv"])
        write.write_pet(
            home / "pet_restored", restored, affine, derivation,
            pet=pet, units=units, suv_type=suv_type, window=result.window,
        )  # fmt: skip
    else:
        write.write_parametric_map(
            home / "pet_restored", restored, affine, derivation, origin=pet or origin, name="pet_restored",
            explanation=f"restored PET, {unit}", unit=write.ucum(unit), window=result.window,
        )  # fmt: skip
    write.write_parametric_map(
        home / "fused", result.fused.numpy(), affine, derivation,
        origin=origin, name="fused", explanation=f"fused, {DIMENSIONLESS}",
    )  # fmt: skip
    write.write_color_series(home / "fused_rgb", result.rgb, affine, derivation, origin=origin)
    write.write_color_multiframe(home / "fused_rgb_multiframe", result.rgb, affine, derivation, origin=origin)


def _identity(result: CaseResult, *settings: object) -> str:
    """Return a hash of inputs, configuration and results, which is the same when a run is repeated."""
    record = result.record
    names = ("versions", "weights_sha256", "steps", "settings", "degradation", "reference")
    known = {name: record[name] for name in names}
    inputs = [record["sources"][name]["sha256"] for name in result.names]
    digest = hashlib.sha256(json.dumps([known, inputs, result.palette, settings], sort_keys=True).encode())
    for volume in (result.fused.numpy(), result.restored[1].numpy(), result.rgb, result.affine):
        digest.update(np.ascontiguousarray(volume).tobytes())
    return digest.hexdigest()

"""A case as DICOM: which series, by which source they are filed, in which unit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medfuse.errors import DicomError
from medfuse.io.labels import region_label
from medfuse.io.modalities import title, titles
from medfuse.pipeline.facts import DIMENSIONLESS
from medfuse.pipeline.result import CaseResult
from medfuse.report.degradations import restored_sources

if TYPE_CHECKING:
    from medfuse.io.dicom.measurements import Measured
    from medfuse.io.dicom.write import Derivation, SourceReference


@dataclass(frozen=True)
class Filing:
    """How the series of a case are filed.

    Attributes:
        derivation: Where they come from.
        origin: Source in whose study the fused series are: that with the grid, where it was DICOM.
        second: Source 2, in whose study its restoration is.
    """

    derivation: Derivation
    origin: SourceReference
    second: SourceReference | None


def write_dicom(result: CaseResult, folder: Path) -> None:
    """Write restored source 2, fused volume and colour fusion as DICOM series, where a source was DICOM; and more.

    Where it was asked for, its standard deviation, and its values in regions, with the regions.

    Each of `series_of` is a folder under `folder`. All lie in the frame of reference of the source with the grid; the
    fused series belong to its study, restored source 2 to that of source 2.

    Args:
        result: The case.
        folder: Folder of its series.

    Raises:
        DicomError: If the sources are not of one patient, or DICOM cannot hold the result.
    """
    if not any(result.files):
        return
    filing = _filing(result)
    for name, write in series_of(result.names[1]).items():
        write(result, folder / name, filing)


def _restored(result: CaseResult, folder: Path, filing: Filing) -> None:
    """Write restored source 2: as the classic PET image that it was, else as a Parametric Map."""
    from medfuse.io.dicom import write

    second, unit, volume = filing.second, result.units[1], result.restored[1].numpy()
    if second is not None and second.is_classic_pet:
        source = result.record["sources"][result.names[1]]
        units, suv_type = write.pet_units(source["suv"])
        write.write_pet(
            folder, volume, result.affine, filing.derivation,
            pet=second, units=units, suv_type=suv_type, window=result.window, name=folder.name,
            frames=source.get("frames"), half_life=source["suv"]["tags"].get("RadionuclideHalfLife"),
        )  # fmt: skip
    else:
        write.write_parametric_map(
            folder, volume, result.affine, filing.derivation, origin=second or filing.origin, name=folder.name,
            explanation=f"restored {title(result.names[1])}, {unit}", unit=write.ucum(unit), window=result.window,
        )  # fmt: skip


def _deviation(result: CaseResult, folder: Path, filing: Filing) -> None:
    """Write the standard deviation of restored source 2 as a Parametric Map, where it is known."""
    from medfuse.io.dicom import write

    deviation, unit = result.deviations[1], result.units[1]
    if deviation is not None:
        write.write_parametric_map(
            folder, deviation.numpy(), result.affine, filing.derivation, origin=filing.second or filing.origin,
            name=folder.name, explanation=f"standard deviation of restored {title(result.names[1])}, {unit}",
            unit=write.ucum(unit),
        )  # fmt: skip


def _fused(result: CaseResult, folder: Path, filing: Filing) -> None:
    """Write the fused volume as a Parametric Map."""
    from medfuse.io.dicom import write

    write.write_parametric_map(
        folder, result.fused.numpy(), result.affine, filing.derivation,
        origin=filing.origin, name=folder.name, explanation=f"fused, {DIMENSIONLESS}",
    )  # fmt: skip


def _color(result: CaseResult, folder: Path, filing: Filing) -> None:
    """Write the colour fusion as a series, a file for each slice."""
    from medfuse.io.dicom import write

    write.write_color_series(
        folder, result.rgb, result.affine, filing.derivation, origin=filing.origin, key=result.colour_key
    )


def _color_multiframe(result: CaseResult, folder: Path, filing: Filing) -> None:
    """Write the colour fusion as one file."""
    from medfuse.io.dicom import write

    write.write_color_multiframe(
        folder, result.rgb, result.affine, filing.derivation, origin=filing.origin, key=result.colour_key
    )


def _regions(result: CaseResult, folder: Path, filing: Filing) -> None:
    """Write the regions as a segmentation, where their values were asked for as DICOM."""
    if result.sr and result.mask is not None:
        from medfuse.io.dicom import measurements as write

        write.write_segmentation(
            folder, result.mask.numpy(), result.affine, **_measured(result, filing, write.Measured)
        )


def _measurements(result: CaseResult, folder: Path, filing: Filing) -> None:
    """Write the values of those regions as a measurement report, likewise."""
    if result.sr and result.mask is not None:
        from medfuse.io.dicom import measurements as write

        write.write_report(folder, folder.with_name(write.REGIONS), **_measured(result, filing, write.Measured))


def _measured(result: CaseResult, filing: Filing, kind: type[Measured]) -> dict[str, Any]:
    """Return what regions are, and how they are filed.

    Both series have UIDs of their own for other regions or values; the images that these are of keep theirs.
    """
    name, record = result.names[1], result.record
    source = record["sources"][name]
    regions = [region for region in source["regions"] if region["label"] is not None]
    of = json.dumps([filing.derivation.key, record.get("mask_sha256"), regions], sort_keys=True)
    suv, reference = (source.get("suv") or {}).get("kind"), record.get("reference_region")
    names = {region["label"]: region["name"] for region in regions if region.get("name")}
    measured = kind(
        title=title(name),
        unit=result.units[1],
        suv_kind=None if suv in (None, "none") else suv,
        regions=regions,
        restored=filing.derivation.uid(f"{name}_restored") if name in restored_sources(record) else None,
        given=filing.second.series if filing.second else None,
        reference_region=None if reference is None else region_label(reference, [r["label"] for r in regions], names),
    )
    derivation = replace(filing.derivation, key=hashlib.sha256(of.encode()).hexdigest())
    return {"derivation": derivation, "origin": filing.second or filing.origin, "measured": measured}


def series_of(key: str) -> dict[str, Callable[[CaseResult, Path, Filing], None]]:
    """Return what is written as DICOM for a source 2 of a modality, by the name of the series and of its folder."""
    return {
        f"{key}_restored": _restored,
        f"{key}_std": _deviation,
        "fused": _fused,
        "fused_rgb": _color,
        "fused_rgb_multiframe": _color_multiframe,
        "regions": _regions,
        "measurements": _measurements,
    }


def _filing(result: CaseResult) -> Filing:
    """Read how the sources are filed.

    Raises:
        DicomError: If they are not of one patient.
    """
    from medfuse.io.dicom import write  # half a second of imports, which not every case needs

    read = [write.read_reference(files) if files else None for files in result.files]
    sources = tuple(source for source in read if source is not None)
    if len({source.patient for source in sources if source.patient}) > 1:  # files may have changed since they were read
        both = " and ".join(titles(result.names[::-1]))
        raise DicomError(f"{both} must be of one patient for DICOM output, got two PatientIDs; do without it.")
    key = _identity(result)
    grid = read[result.names.index(result.record["reference"]["source"])]
    registration = result.record["registration"]
    world = (grid or sources[0]).frame_of_reference
    if grid is None and registration and registration["performed"] and registration["accepted"]:
        world = ""  # that of a NIfTI, which has no name
    derivation = write.Derivation(sources, world or write.make_uid(key, "world"), key, result.deidentified)
    return Filing(derivation, grid or sources[0], read[1])


def _identity(result: CaseResult) -> str:
    """Return a hash of inputs, configuration and results, which is the same when a run is repeated."""
    record = result.record
    names = ("versions", "weights_sha256", "steps", "settings", "degradation", "reference")
    known = {name: record[name] for name in names}
    inputs = [record["sources"][name]["sha256"] for name in result.names]
    digest = hashlib.sha256(
        json.dumps([known, inputs, record["display"], [result.deidentified]], sort_keys=True).encode()
    )
    for volume in (result.fused.numpy(), result.restored[1].numpy(), result.rgb, result.affine):
        digest.update(np.ascontiguousarray(volume).tobytes())
    return digest.hexdigest()

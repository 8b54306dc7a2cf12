"""Two cases of one person, by their records: what changed in each region."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError
from medfuse.io.atomic import atomic_file
from medfuse.io.dicom.identity import person_of_results
from medfuse.io.modalities import title
from medfuse.io.places import DICOM_FOLDER
from medfuse.regions import compare_regions, tsv
from medfuse.regions.comparison import COLUMNS, change_row, change_sentence
from medfuse.report.degradations import restored_sources
from medfuse.report.values import named

_MAX_BYTES = 64 << 20
_ALIKE = 0.1  # of a width, by which two point spread functions may differ
_CUT = 0.01  # of a region, likewise


def compare_cases(first: str | Path, second: str | Path, *, out: str | Path | None = None) -> dict[str, Any]:
    """Compare the regions of source 2 of two cases, the earlier first.

    Both must be of one person, which their DICOM results tell, where they have some, and the ids of BIDS. Records hold
    no name; where neither tells it, a sentence says so.

    Args:
        first: Folder of the earlier case, or its record.
        second: Folder of the later case, or its record.
        out: Table to write (TSV).

    Returns:
        `source`, `unit`, `regions` as `medfuse.regions.compare_regions` returns them, `sentences`, one for each, and
        `doubts`: what else the differences hold, and which regions only one case has.

    Raises:
        MedfuseError: There are no such records, they cannot be compared, are of one scan, or of two persons.
    """
    if out is not None and Path(out).suffix != ".tsv":
        raise BundleError("--out of a comparison must end in .tsv, got another name; rename it.")
    found = [_record(Path(path)) for path in (first, second)]
    records = [record for record, _ in found]
    _require_two_scans(*records)
    known = _of_one_person(*found)
    regions = compare_regions(*records)
    name = list(records[0]["sources"])[1]
    unit = str(records[0]["sources"][name]["unit"])
    if out is not None:
        with atomic_file(out) as file:
            file.write(tsv(COLUMNS, [change_row(region) for region in regions]).encode())
    sentences = [change_sentence(region, title(name), unit) for region in regions]
    doubts = [*_not_alike(*records), *_of_one_alone(*records)]
    if not known:
        doubts.append("That both cases are of one person is not known: neither DICOM results nor ids of BIDS tell it.")
    return {
        "source": name, "unit": unit, "regions": regions, "one_person": known or None, "sentences": sentences + doubts,
        "doubts": doubts,
    }  # fmt: skip


def _not_alike(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """Give what was done otherwise to the later case than to the earlier, and is part of a difference."""
    what = title(list(first["sources"])[1])
    also = "a difference of restored values holds that, too: read those of the values as given"
    ways = [_way(record) for record in (first, second)]
    widths = [_psf(record) for record in (first, second)]
    if ways[0] != ways[1]:
        yield f"The {what} of the earlier case {ways[0]}, that of the later {ways[1]}; {also}."
    elif all(widths) and any(abs(a - b) > _ALIKE * max(a, b) for a, b in zip(*widths, strict=False)):
        texts = [" x ".join(f"{width:.3g}" for width in each) for each in widths]
        yield f"The {what} was restored by a PSF of {texts[0]} mm, then of {texts[1]} mm; {also}."
    made = [(record.get("weights_sha256"), (record.get("versions") or {}).get("medfuse")) for record in (first, second)]
    networks = [_native(record).get("weights_sha256") for record in (first, second)]
    if made[0] != made[1] or (all(networks) and networks[0] != networks[1]):
        yield f"Both cases were not made by one version of medfuse and its weights; {also}, or fuse both by one."
    by = [record.get("reference_region") for record in (first, second)]
    if by[0] != by[1]:
        yield "Both cases have not one reference region: their SUVR are not compared."


def _way(record: Mapping[str, Any]) -> str:
    """Return how source 2 of a record came to its restored values."""
    name, native = list(record["sources"])[1], _native(record)
    if native:
        by = " by a trained network" if native.get("weights_sha256") else ""
        return f"was restored on its own grid{by}, " + ("guided" if native.get("guided") else "by its data alone")
    return "was restored slice by slice" if name in restored_sources(record) else "came back as it was given"


def _psf(record: Mapping[str, Any]) -> list[float]:
    """Return the widths of the PSF of source 2 along its axes, mm; none where nothing was blurred."""
    return list(_native(record).get("psf_fwhm_mm") or record.get("psf_mm") or ())


def _native(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a record says of source 2 on its own grid; empty where it was not restored there."""
    return list(record["sources"].values())[1].get("native") or {}


def _of_one_alone(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """Give the regions that one of two records does not have, or that were not wholly measured in it."""
    regions: list[dict[int | None, dict[str, Any]]] = [
        {r["label"]: r for r in list(record["sources"].values())[1]["regions"]} for record in (first, second)
    ]
    for here, there, which in ((regions[0], regions[1], "earlier"), (regions[1], regions[0], "later")):
        alone = [named(region) for label, region in here.items() if label not in there]
        if alone:
            yield f"Of the {which} case alone: {', '.join(alone)}; not compared."
    cut = [_outside(record) for record in (first, second)]
    unlike = [
        named(r) for label, r in regions[0].items() if abs(cut[0].get(str(label), 0) - cut[1].get(str(label), 0)) > _CUT
    ]
    if unlike:
        yield (
            f"Of {', '.join(unlike)} not the same part lies in the field of view of both cases: a difference "
            "holds that, too."
        )


def _outside(record: Mapping[str, Any]) -> dict[str, float]:
    """Return which share of each region of a record has no values."""
    found: dict[str, float] = {}
    for key in ("mask_outside", "mask_unmeasured"):
        for label, share in (record.get(key) or {}).items():
            found[str(label)] = found.get(str(label), 0.0) + float(share)
    return found


def _require_two_scans(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Raise where both cases were made of one scan.

    Raises:
        BundleError: They were, by the hash of source 2.
    """
    hashes = [list(record["sources"].values())[1:2] for record in (first, second)]
    one, two = (found[0].get("sha256") if found and isinstance(found[0], dict) else None for found in hashes)
    if one and one == two:
        raise BundleError("Both cases must be of two scans, got two of one; name the earlier and the later case.")


def _of_one_person(first: tuple[dict[str, Any], Path], second: tuple[dict[str, Any], Path]) -> bool:
    """Return whether two cases are known to be of one person; False where nothing tells it.

    Raises:
        BundleError: They are of two.
    """
    other = BundleError("Both cases must be of one person, got cases of two; name two cases of one.")
    subjects = [re.match(r"sub-[0-9A-Za-z]+(?=_|$)", str(record.get("case", ""))) for record, _ in (first, second)]
    one, two = (match and match[0] for match in subjects)
    if one and two and one != two:
        raise other
    people = [person_of_results(folder / DICOM_FOLDER) for _, folder in (first, second)]
    if people[0] is None or people[1] is None:
        return bool(one and two)
    if people[0].is_another(people[1]):
        raise other
    told = [any(astuple(person)) for person in people if person is not None]
    return all(told) or bool(one and two)


def _record(path: Path) -> tuple[dict[str, Any], Path]:
    """Return the record of a case: that of a path, or the only one in a folder; and the folder."""
    if not path.is_dir():
        return _read(path), path.parent
    found = []
    for file in sorted(path.glob("*.json")):
        with suppress(BundleError):  # another file
            record = _read(file)
            if record.get("case") == file.stem:
                found.append(record)
    if len(found) != 1:
        raise BundleError(f"CASE must be the folder of one case, got {len(found)} records in it; name the record.")
    return found[0], path


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BundleError("The record of a case must be small, got a large file; name the right one.")
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(
            "CASE must be a folder of results or a record (JSON), got another; check the path."
        ) from error
    if not isinstance(record, dict) or "sources" not in record:
        raise BundleError("CASE must be the record of a fused case, got another file; name CASE/CASE.json.")
    return record

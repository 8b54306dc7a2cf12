"""Sidecars: what the JSON file beside a NIfTI, as of BIDS and dcm2niix, says of the unit of its values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError
from medfuse.io.modalities import MODALITIES
from medfuse.io.texts import read_json
from medfuse.io.units import find_unit
from medfuse.schema import UNIT, checked_unit

_ENDING = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_UNIT_KEYS = ("Units", "Unit")  # of BIDS, and of its drafts for PET
_NO_UNIT = (None, "", "n/a")


def read_unit(sidecar: Path, whose: str) -> str | None:
    """Return the unit that a sidecar says, or None.

    Args:
        sidecar: The JSON file.
        whose: What it is of, for errors, such as `the PET of sub-01`.

    Raises:
        BundleError: It is no JSON object, its unit is none, or it says two.
    """
    try:
        content = read_json(sidecar)
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise BundleError(f"The sidecar of {whose} must be a small JSON object, got another; repair it.")
    units = [_stated(v, f"{k} of {whose}") for k in _UNIT_KEYS if (v := content.get(k)) not in _NO_UNIT]
    if len({find_unit(unit) or unit for unit in units}) > 1:
        raise BundleError(f"Units and Unit of {whose} must be equal, got two units; correct the sidecar.")
    return next(iter(units), None)


def with_sidecar_units(item: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Return a case with the unit of each NIfTI that shows uptake: as stated, else by its sidecar.

    The sidecar lies beside the image under the same name, `pet.json` beside `pet.nii.gz`, as BIDS and dcm2niix have it.

    Args:
        item: "case", and a path for each key; a unit such as "pet_unit" has been stated by a person.
        keys: Modalities of the sources.

    Raises:
        BundleError: A sidecar is no JSON object, or says another unit than what is stated.
    """
    result = dict(item)
    for key in (k for k in keys if k in MODALITIES and MODALITIES[k].has_uptake):
        image, stated = Path(str(item[key])), item.get(f"{key}_unit")
        whose = f"the {MODALITIES[key].title} of {item['case']}"
        sidecar = image.with_name(f"{_ENDING.sub('', image.name)}.json")
        noted = read_unit(sidecar, whose) if _ENDING.search(image.name) and sidecar.is_file() else None
        if stated and noted and not _agree(stated, noted):
            raise BundleError(
                f"The unit of {whose} must be the one of its sidecar, got {stated}, and {noted} in the sidecar; "
                "correct either."
            )
        if unit := stated or noted:
            result[f"{key}_unit"] = unit
    return result


def _agree(one: str, other: str) -> bool:
    """Return whether two units are one: in another spelling, or an SUV and the g/ml or cm2/ml that it is in."""
    first, second = find_unit(one), find_unit(other)
    if first is None or second is None:
        return one.lower() == other.lower()
    same = first.dicom_units == second.dicom_units != ""
    return first == second or (same and "" in (first.kind, second.kind))


def _stated(value: Any, what: str) -> str:
    """Return a unit as it is written; by its own name where its spelling, as {SUVbw}g/ml, is none for outputs."""
    known = find_unit(value) if isinstance(value, str) and not UNIT.fullmatch(value) else None
    return known.name if known else checked_unit(value, what)

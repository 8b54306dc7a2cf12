"""JSON sidecars: the unit that one beside an image says, BIDS or not. Loads neither torch nor MONAI."""

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
_UNIT_KEYS = ("units", "unit")  # Units of BIDS, and Unit of its drafts for PET, in small or capital letters
_NO_UNIT = (None, "", "n/a")


def read_unit(sidecar: Path, whose: str) -> str | None:
    """Return the unit that a sidecar says, None if it says none.

    Args:
        sidecar: A JSON file.
        whose: What it describes, for errors.

    Raises:
        BundleError: It is no small JSON object, says two units, or one that is no text of a unit.
    """
    try:
        content = read_json(sidecar)
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise BundleError(f"The sidecar of {whose} must be a small JSON object, got another; repair it.")
    units = [
        _stated(value, f"{key.strip()} of {whose}")
        for key, value in content.items()
        if key.strip().casefold() in _UNIT_KEYS and value not in _NO_UNIT
    ]
    if len({find_unit(unit) or unit for unit in units}) > 1:
        raise BundleError(f"Units and Unit of {whose} must be equal, got two units; correct the sidecar.")
    return next(iter(units), None)


def sidecar_units(paths: Mapping[str, Any], stated: Mapping[str, Any], keys: Sequence[str]) -> dict[str, str]:
    """Return `KEY_unit` of each measured NIfTI source whose sidecar says it: `pet.json` beside `pet.nii.gz`.

    Args:
        paths: Of a case: its id as `case`, and where each source lies.
        stated: What a person has stated of it, such as `pet_unit`.
        keys: Of the sources.

    Raises:
        BundleError: A sidecar cannot be read, or says another unit than what is stated.
    """
    found: dict[str, str] = {}
    for key in keys:
        row, path = MODALITIES.get(key), Path(paths[key])
        sidecar = path.with_name(f"{_ENDING.sub('', path.name)}.json")
        if row is None or not row.is_measured or not _ENDING.search(path.name) or not sidecar.is_file():
            continue
        whose = f"the {row.title} of {paths['case']}"
        noted, name = read_unit(sidecar, whose), f"{key}_unit"
        said = stated.get(name)
        if said and noted and (find_unit(said) or said) != (find_unit(noted) or noted):
            raise BundleError(
                f"The unit of {whose} must be the one of its sidecar, got {said}, and {noted} in the sidecar; "
                "correct either."
            )
        if noted and not said:
            found[name] = noted
    return found


def _stated(value: Any, what: str) -> str:
    """Return a unit as it is written; by its own name where its spelling, as {SUVbw}g/ml, is none for outputs."""
    known = find_unit(value) if isinstance(value, str) and not UNIT.fullmatch(value) else None
    return known.name if known else checked_unit(value, what)

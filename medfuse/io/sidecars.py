"""JSON sidecars: the unit that one beside an image says, BIDS or not. Loads neither torch nor MONAI."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError
from medfuse.io.modalities import MODALITIES
from medfuse.io.texts import read_json
from medfuse.io.units import FILE_UNITS, find_unit
from medfuse.schema import UNIT, checked_unit

_ENDING = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_BIDS_NAME = re.compile(r"sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9]+)*_[A-Za-z0-9]+")
_ADDED = ("space", "desc", "res")  # entities that a derivative adds to those of its source
UNIT_KEYS = ("Units", "Unit")
"""Of BIDS, and of its drafts for PET; also read in small or capital letters."""
THICKEST = 50.0  # mm that a slice may be
_SETTLED = 3 * 10**9  # ns
_MADE_OF: dict[Path, Path] = {}  # raw datasets, by the folder of derivatives of which somebody has told it
NO_VALUE = (None, "", "n/a")
"""What says that nothing is known."""


def sidecar_files(image: Path) -> list[Path]:
    """Return the JSON files that describe a NIfTI, the furthest and most general first: a later one counts more.

    Of a name as BIDS has it, those further up whose entities are among those of the image (the inheritance principle);
    of any other the one beside it.
    """
    image = image.absolute()
    stem, root = _ENDING.sub("", image.name), bids_root(image)
    if root is None:
        beside = image.with_name(f"{stem}.json")
        return [beside] if beside.is_file() else []
    *entities, suffix = stem.split("_")
    raw = _raw_root(root)
    if raw is not None:  # of what was made of an image, its own sidecars tell more than is repeated
        source = [part for part in entities if part.split("-")[0] not in _ADDED]
        session = next((part for part in source if part.startswith("ses-")), "")
        place = raw / entities[0] / session / image.parent.name / f"{'_'.join([*source, suffix])}.nii.gz"
        return [*sidecar_files(place), *_applying(image.parent, root, entities, suffix)]
    return _applying(image.parent, root, entities, suffix)


def _applying(folder: Path, root: Path, entities: Sequence[str], suffix: str) -> list[Path]:
    folders = [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]
    found: list[Path] = []
    for folder in reversed(folders):
        named = ((p, p.stem.split("_")) for p in _json_files(folder))
        fitting = [(p, parts) for p, parts in named if parts[-1] == suffix and set(parts[:-1]) <= set(entities)]
        found += [p for p, _ in sorted(fitting, key=lambda item: (len(item[1]), item[0].name)) if p.is_file()]
    return found


def _json_files(folder: Path) -> tuple[Path, ...]:
    """Return the JSON files of a folder; that of all participants may hold thousands of names, and is asked for often.

    What changed within the last seconds is listed anew: its time may not tell the next change.
    """
    try:
        changed = folder.stat().st_mtime_ns
    except OSError:
        return ()
    settled = time.time_ns() - changed > _SETTLED
    return _listed(folder, changed) if settled else _listed.__wrapped__(folder, changed)


@lru_cache(maxsize=16)
def _listed(folder: Path, changed: int) -> tuple[Path, ...]:
    return tuple(folder.glob("*.json"))


def source_root(image: Path) -> Path | None:
    """Return the folder of the raw dataset that an image is of, or that it was made of; None for neither."""
    root = bids_root(image)
    return None if root is None else _raw_root(root) or root


def note_source(derivatives: Path, raw: Path) -> None:
    """Note what dataset derivatives were made of: what they say themselves may be a path of another machine."""
    _MADE_OF[derivatives.resolve()] = raw.resolve()


def _raw_root(root: Path) -> Path | None:
    """Return the folder of the dataset that one of derivatives was made of; None for a raw one, or where it is not."""
    if (noted := _MADE_OF.get(root.resolve())) is not None:
        return noted
    try:
        about = read_json(root / "dataset_description.json")
        if about.get("DatasetType") != "derivative":
            return None
        link = (about.get("DatasetLinks") or {}).get("raw") or (about.get("SourceDatasets") or [{}])[0].get("URL") or ""
        given = Path(str(link).removeprefix("file://"))
    except (OSError, ValueError, AttributeError, TypeError, IndexError, KeyError):
        return None
    near = root.parent.parent if root.parent.name == "derivatives" else None
    for place in (root / given if link else None, near):
        if place is not None and place.resolve() != root.resolve() and any(place.glob("sub-*")):
            return place.resolve()
    return None


def bids_root(image: Path) -> Path | None:
    """Return the folder of the BIDS dataset that an image lies in, that around its `sub-` folder, or None."""
    stem = _ENDING.sub("", image.name)
    if not _BIDS_NAME.fullmatch(stem):
        return None
    subject = stem.split("_")[0]
    return next((folder.parent for folder in image.absolute().parents if folder.name == subject), None)


def read_sidecar(sidecar: Path, whose: str) -> dict[str, Any]:
    """Return the content of a sidecar, its unit checked.

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
    stated = [
        (key.strip().capitalize(), _stated(value, f"{key.strip()} of {whose}"))
        for key, value in content.items()
        if key.strip().capitalize() in UNIT_KEYS and value not in NO_VALUE
    ]
    if len({find_unit(unit) or unit for _, unit in stated}) > 1:
        raise BundleError(f"Units and Unit of {whose} must be equal, got two units; correct the sidecar.")
    return {**content, **dict(stated)}


def read_unit(image: Path, whose: str) -> str | None:
    """Return the unit that the sidecars of a NIfTI say, None if they say none.

    Args:
        image: The NIfTI.
        whose: What it is, for errors.

    Raises:
        BundleError: As `read_sidecar`.
    """
    unit = None
    for sidecar in sidecar_files(image):
        content = read_sidecar(sidecar, whose)
        unit = next((str(content[k]) for k in UNIT_KEYS if content.get(k) not in NO_VALUE), unit)
    return unit


def read_thickness(image: Path) -> float | None:
    """Return the `SliceThickness` that the sidecars of a NIfTI say, mm; what cannot be read says nothing."""
    thick = None
    for sidecar in sidecar_files(image):
        try:
            content = read_json(sidecar)
        except (OSError, ValueError):
            continue
        said = content.get("SliceThickness") if isinstance(content, dict) else None
        if isinstance(said, (int, float)) and not isinstance(said, bool) and 0 < said <= THICKEST:
            thick = float(said)
    return thick


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
        if row is None or not row.is_measured or not _ENDING.search(path.name):
            continue
        whose = f"the {row.title} of {paths['case']}"
        noted, name = read_unit(path, whose), f"{key}_unit"
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
    """Return a unit as it is written; by its own name where it is written as none for outputs: {SUVbw}g/ml, BQML."""
    known = find_unit(value) if isinstance(value, str) else None
    if known is not None and (value in FILE_UNITS or not UNIT.fullmatch(value) or not known.is_comparable):
        return known.name
    return checked_unit(value, what)

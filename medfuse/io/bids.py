"""A BIDS raw dataset as a list of cases: for each session with a PET, that PET and a T1-weighted MRI.

    sub-01/[ses-1/]pet/sub-01_[ses-1_]trc-FDG_pet.nii.gz    its sidecar, or one it inherits, says the unit
    sub-01/[ses-1/]anat/sub-01_[ses-1_]T1w.nii.gz

A session without an MRI of its own takes the only one of the subject. Nothing is guessed: where there are two, the case
is refused, and a manifest chooses. A subject has all its PETs in sessions, or none of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError
from medfuse.io.texts import read_json
from medfuse.schema import checked_unit

_ENDING = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_UNIT_KEYS = ("Units", "Unit")  # of BIDS, and of its drafts for PET
_NO_UNIT = (None, "", "n/a")
_NAME = re.compile(r"sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*_(pet|T1w)\.nii(?:\.gz)?")


def is_bids(root: Path) -> bool:
    """Return whether a folder looks like a BIDS dataset."""
    pattern = ("sub-*/pet", "sub-*/anat", "sub-*/ses-*/pet", "sub-*/ses-*/anat")
    return (root / "dataset_description.json").is_file() or any(next(root.glob(p), None) for p in pattern)


def find_bids_cases(
    root: str | Path, *, participants: Sequence[str] = (), sessions: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """List the cases of a BIDS dataset, sorted by id, `sub-01` or `sub-01_ses-1`.

    Args:
        root: Folder of the dataset.
        participants: Labels of the participants to take, with or without `sub-`; all if none is given.
        sessions: Labels of the sessions to take, likewise.

    Returns:
        One dictionary per case: "case", "mri", "pet" and, where a sidecar says it, "pet_unit"; or "case" and "problem"
        where it cannot be used.

    Raises:
        BundleError: If a label is not in the dataset, or there is no subject.
    """
    root = Path(root)
    subjects = _folders(root, "sub")
    if not subjects:
        raise BundleError("A BIDS dataset must hold folders such as sub-01, got none; check the folder.")
    wanted = _labels("participant", participants, subjects, "sub")
    known = {name: path for subject in subjects.values() for name, path in _folders(subject, "ses").items()}
    chosen = _labels("session", sessions, known, "ses") if sessions else None
    return [case for name in subjects if name in wanted for case in _readable(root, subjects[name], chosen)]


def _readable(root: Path, subject: Path, chosen: set[str] | None) -> list[dict[str, Any]]:
    """List the cases of one subject, or the subject as a case that cannot be read."""
    try:
        return _subject(root, subject, chosen)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        problem = f"The files of {subject.name} must be readable, got {why!r}; check them and their permissions."
        return [{"case": subject.name, "problem": problem}]


def _folders(root: Path, kind: str) -> dict[str, Path]:
    found = (p for p in sorted(root.glob(f"{kind}-*")) if p.is_dir())
    return {p.name: p for p in found if re.fullmatch(rf"{kind}-[A-Za-z0-9]+", p.name)}


def _labels(what: str, labels: Sequence[str], known: dict[str, Path], kind: str) -> set[str]:
    """Return the names of the folders that labels stand for; all that are known for no label."""
    names = {f"{kind}-{label.removeprefix(f'{kind}-')}" for label in labels}
    if absent := sorted(names - set(known)):
        raise BundleError(
            f"Every {what} label must be in the dataset, got {len(absent)} that are not: {', '.join(absent)}; "
            "check the spelling."
        )
    return names or set(known)


def _subject(root: Path, subject: Path, chosen: set[str] | None) -> list[dict[str, Any]]:
    """List the cases of one subject: its chosen sessions with a PET, or all of them where none has one."""
    sessions = _folders(subject, "ses")
    places = [subject / name for name in sorted(sessions if chosen is None else chosen)] or [subject]
    pets = {place: found for place in places if (found := _images(place / "pet", "pet"))}
    everywhere = [t1 for place in (subject, *sessions.values()) for t1 in _images(place / "anat", "T1w")]
    mixed = bool(sessions) and bool(_images(subject / "pet", "pet"))
    cases = []
    for place in pets or places:
        case = subject.name if place == subject else f"{subject.name}_{place.name}"
        found, heads = pets.get(place, []), _images(place / "anat", "T1w") or everywhere
        try:
            if mixed:
                raise BundleError(
                    f"{subject.name} must have all its PETs in sessions or none, got both; move those in pet/."
                )
            pet, mri = _only(case, "PET (pet/*_pet.nii.gz)", found), _only(case, "MRI (anat/*_T1w.nii.gz)", heads)
            cases.append({"case": case, "mri": str(mri), "pet": str(pet), **_unit(root, case, pet)})
        except BundleError as error:
            cases.append({"case": case, "problem": str(error)})
    return cases


def _images(folder: Path, suffix: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.iterdir()) if (m := _NAME.fullmatch(p.name)) and m[1] == suffix]


def _only(case: str, what: str, images: list[Path]) -> Path:
    """Return the only image, or say what there is, by the entities of the names."""
    if len(images) != 1:
        listed = ", ".join(p.name.split(".")[0].partition("_")[2] for p in images)
        remedy = "choose one in a manifest" if images else "add it or leave the participant out"
        raise BundleError(
            f"{case} must have one {what}, got {len(images)}{f' ({listed})' if listed else ''}; {remedy}."
        )
    return images[0]


def _unit(root: Path, case: str, pet: Path) -> dict[str, str]:
    """Return the unit of a PET, by the sidecar nearest to it (BIDS: the inheritance principle)."""
    parts = set(pet.name.split(".")[0].split("_"))
    folder = pet.parent
    while True:
        sidecars = [p for p in folder.glob("*pet.json") if set(p.stem.split("_")) <= parts]
        for sidecar in sorted(sidecars, key=lambda p: (-len(p.stem.split("_")), p.name)):
            if unit := _read_unit(sidecar, case):
                return {"pet_unit": unit}
        if folder == root:
            return {}
        folder = folder.parent


def _read_unit(sidecar: Path, case: str) -> str | None:
    try:
        content = read_json(sidecar)
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise BundleError(f"The sidecar of the PET of {case} must be a small JSON object, got another; repair it.")
    units = {checked_unit(v, f"{k} of the PET of {case}") for k in _UNIT_KEYS if (v := content.get(k)) not in _NO_UNIT}
    if len(units) > 1:
        raise BundleError(f"Units and Unit of the PET of {case} must be equal, got two units; correct the sidecar.")
    return next(iter(units), None)


def unit_of_nifti(image: Path, stated: str | None, case: str) -> str | None:
    """Return the unit of a NIfTI PET: as stated, else by the sidecar beside it (`pet.json` beside `pet.nii.gz`).

    Args:
        image: The NIfTI, under any name; of anything else, what is stated is returned.
        stated: What a person has stated of it.
        case: Its id, for errors.

    Raises:
        BundleError: The sidecar is no JSON object, or says another unit than what is stated.
    """
    if not _ENDING.search(image.name):
        return stated
    sidecar = image.with_name(f"{_ENDING.sub('', image.name)}.json")
    noted = _read_unit(sidecar, case) if sidecar.is_file() else None
    if stated and noted and _plain(stated) != _plain(noted):
        raise BundleError(
            f"The unit of the PET of {case} must be the one of its sidecar, got {stated}, and {noted} in the sidecar; "
            "correct either."
        )
    return stated or noted


def _plain(unit: str) -> str:
    """Return a unit in one of its spellings: 1 cc is 1 cm3 is 1 ml, and SUV by body weight is in g/ml."""
    text = unit.lower().replace("/cc", "/ml").replace("/cm3", "/ml")
    return "suv" if text in ("g/ml", "suvbw", "g/ml{suvbw}", "{suvbw}g/ml") else text

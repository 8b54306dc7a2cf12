"""A BIDS raw dataset as a list of cases: for each session with a PET, that PET and a T1-weighted MRI.

    sub-01/[ses-1/]pet/sub-01_[ses-1_]trc-FDG_pet.nii.gz    its sidecar, or one it inherits, says the unit
    sub-01/[ses-1/]anat/sub-01_[ses-1_]T1w.nii.gz

Folders and suffixes are those of `medfuse.io.modalities`; what shows uptake makes a case. A session without an MRI of
its own takes the only one of the subject. Nothing is guessed: where there are two, the case is refused, and a manifest
chooses. A subject has all its PETs in sessions, or none of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError
from medfuse.io.modalities import DEFAULT_PAIR, MODALITIES, Modality, modality
from medfuse.io.sidecars import read_unit

_ROWS = [row for row in MODALITIES.values() if row.bids_folder]
_SUFFIXES = "|".join(row.bids_suffix for row in _ROWS)
_NAME = re.compile(rf"sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9]+)*_({_SUFFIXES})\.nii(?:\.gz)?")


def is_bids(root: Path) -> bool:
    """Return whether a folder looks like a BIDS dataset."""
    patterns = [f"{place}/{row.bids_folder}" for place in ("sub-*", "sub-*/ses-*") for row in _ROWS]
    return (root / "dataset_description.json").is_file() or any(next(root.glob(p), None) for p in patterns)


def find_bids_cases(
    root: str | Path,
    *,
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    keys: Sequence[str] = DEFAULT_PAIR,
) -> list[dict[str, Any]]:
    """List the cases of a BIDS dataset, sorted by id, `sub-01` or `sub-01_ses-1`.

    Args:
        root: Folder of the dataset.
        participants: Labels of the participants to take, with or without `sub-`; all if none is given.
        sessions: Labels of the sessions to take, likewise.
        keys: Modalities of the sources, those of a bundle.

    Returns:
        One dictionary per case: "case", a path for each key, such as "mri" and "pet", and, where a sidecar says it,
        "pet_unit"; or "case" and "problem" where it cannot be used.

    Raises:
        BundleError: If a label is not in the dataset, there is no subject, or BIDS has no place for a modality.
    """
    root, roles = Path(root), _roles(keys)
    subjects = _folders(root, "sub")
    if not subjects:
        raise BundleError("A BIDS dataset must hold folders such as sub-01, got none; check the folder.")
    wanted = _labels("participant", participants, subjects, "sub")
    known = {name: path for subject in subjects.values() for name, path in _folders(subject, "ses").items()}
    chosen = _labels("session", sessions, known, "ses") if sessions else None
    return [case for name in subjects if name in wanted for case in _readable(root, subjects[name], chosen, roles)]


def _roles(keys: Sequence[str]) -> tuple[Modality, Modality]:
    """Return the modality whose images make cases, one that shows uptake if there is one, and the other."""
    rows = [modality(key) for key in keys]
    if absent := [row.title for row in rows if not row.bids_folder]:
        raise BundleError(
            f"A BIDS dataset must be fused by a bundle of {' and '.join(row.title for row in _ROWS)}, got one of "
            f"{' and '.join(absent)}, for which BIDS has no place; list the cases in a manifest."
        )
    main = next((row for row in rows if row.has_uptake), rows[1])
    return main, next(row for row in rows if row != main)


def _readable(
    root: Path, subject: Path, chosen: set[str] | None, roles: tuple[Modality, Modality]
) -> list[dict[str, Any]]:
    """List the cases of one subject, or the subject as a case that cannot be read."""
    try:
        return _subject(root, subject, chosen, roles)
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


def _subject(
    root: Path, subject: Path, chosen: set[str] | None, roles: tuple[Modality, Modality]
) -> list[dict[str, Any]]:
    """List the cases of one subject: its chosen sessions with a PET, or all of them where none has one."""
    main, other = roles
    sessions = _folders(subject, "ses")
    places = [subject / name for name in sorted(sessions if chosen is None else chosen)] or [subject]
    pets = {place: found for place in places if (found := _images(place, main))}
    everywhere = [t1 for place in (subject, *sessions.values()) for t1 in _images(place, other)]
    mixed = bool(sessions) and bool(_images(subject, main))
    cases = []
    for place in pets or places:
        case = subject.name if place == subject else f"{subject.name}_{place.name}"
        found, heads = pets.get(place, []), _images(place, other) or everywhere
        try:
            if mixed:
                raise BundleError(
                    f"{subject.name} must have all its {main.title}s in sessions or none, got both; "
                    f"move those in {main.bids_folder}/."
                )
            images = {main.key: _only(case, main, found), other.key: _only(case, other, heads)}
            units = {f"{row.key}_unit": _unit(root, case, images[row.key], row) for row in roles if row.is_measured}
            paths = {key: str(images[key]) for key in MODALITIES if key in images}
            cases.append({"case": case, **paths, **{key: unit for key, unit in units.items() if unit}})
        except BundleError as error:
            cases.append({"case": case, "problem": str(error)})
    return cases


def _images(place: Path, row: Modality) -> list[Path]:
    folder = place / row.bids_folder
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.iterdir()) if (m := _NAME.fullmatch(p.name)) and m[1] == row.bids_suffix]


def _only(case: str, row: Modality, images: list[Path]) -> Path:
    """Return the only image, or say what there is, by the entities of the names."""
    if len(images) != 1:
        listed = ", ".join(p.name.split(".")[0].partition("_")[2] for p in images)
        what = f"{row.title} ({row.bids_folder}/*_{row.bids_suffix}.nii.gz)"
        remedy = "choose one in a manifest" if images else "add it or leave the participant out"
        raise BundleError(
            f"{case} must have one {what}, got {len(images)}{f' ({listed})' if listed else ''}; {remedy}."
        )
    return images[0]


def _unit(root: Path, case: str, image: Path, row: Modality) -> str | None:
    """Return the unit of an image, by the sidecar nearest to it (BIDS: the inheritance principle)."""
    parts = set(image.name.split(".")[0].split("_"))
    folder = image.parent
    while True:
        sidecars = [p for p in folder.glob(f"*{row.bids_suffix}.json") if set(p.stem.split("_")) <= parts]
        for sidecar in sorted(sidecars, key=lambda p: (-len(p.stem.split("_")), p.name)):
            if unit := read_unit(sidecar, f"the {row.title} of {case}"):
                return unit
        if folder == root:
            return None
        folder = folder.parent

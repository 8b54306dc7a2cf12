"""A BIDS raw dataset as a list of cases: for each session with a PET, that PET and a T1-weighted MRI.

    sub-01/[ses-1/]pet/sub-01_[ses-1_]trc-FDG_pet.nii.gz    its sidecar, or one it inherits, says the unit
    sub-01/[ses-1/]anat/sub-01_[ses-1_]T1w.nii.gz

Folders and suffixes are those of `medfuse.io.modalities`; what shows uptake makes a case. Which of several PETs is
meant must be said, by its entities: see `medfuse.io.bids_filter`. A subject has all its PETs in sessions, or none.

Of several MRIs one is taken by this rule, and the record says so: those of the PET's session; else those beside no
session; else those of the nearest session, an earlier one before a later one, by the order of their labels. Of these
the one without contrast agent (`ce-`), with the fewest other entities, of the lowest run, the first by name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError
from medfuse.io.bids_filter import Selection, entities_of
from medfuse.io.modalities import DEFAULT_PAIR, MODALITIES, Modality, modality
from medfuse.io.sidecars import read_unit

_EVERYTHING = Selection()
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
    selection: Selection = _EVERYTHING,
) -> list[dict[str, Any]]:
    """List the cases of a BIDS dataset, sorted by id, `sub-01` or `sub-01_ses-1`.

    Args:
        root: Folder of the dataset.
        participants: Labels of the participants to take, with or without `sub-`; all if none is given.
        sessions: Labels of the sessions to take, likewise.
        keys: Modalities of the sources, those of a bundle.
        selection: Which of several images are meant.

    Returns:
        One dictionary per case: "case", a path for each key, such as "mri" and "pet", where a sidecar says it,
        "pet_unit", and where the MRI is one of several, "mri_chosen_of", their number; or "case" and "problem" where
        it cannot be used.

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
    return [case for name in subjects if name in wanted for case in _readable(subjects[name], chosen, roles, selection)]


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
    subject: Path, chosen: set[str] | None, roles: tuple[Modality, Modality], selection: Selection
) -> list[dict[str, Any]]:
    """List the cases of one subject, or the subject as a case that cannot be read."""
    try:
        return _subject(subject, chosen, roles, selection)
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
    subject: Path, chosen: set[str] | None, roles: tuple[Modality, Modality], selection: Selection
) -> list[dict[str, Any]]:
    """List the cases of one subject: its chosen sessions with a PET, or all of them where none has one."""
    main, other = roles
    sessions = _folders(subject, "ses")
    places = [subject / name for name in sorted(sessions if chosen is None else chosen)] or [subject]
    pets = {place: found for place in places if (found := _images(place, main))}
    fitting = {place: found for place in pets if (found := [p for p in pets[place] if selection.fits(main, p)])}
    every = [subject, *sessions.values()]
    heads = {place: found for place in every if (found := _fitting(place, other, selection))}
    mixed = bool(sessions) and bool(_images(subject, main))
    cases = []
    for place in fitting or pets or places:
        case = subject.name if place == subject else f"{subject.name}_{place.name}"
        found = fitting.get(place, [])
        try:
            if mixed:
                raise BundleError(
                    f"{subject.name} must have all its {main.title}s in sessions or none, got both; "
                    f"move those in {main.bids_folder}/."
                )
            near = _nearest(place, subject, heads)
            images = {
                main.key: _only(case, main, found, pets.get(place, [])),
                other.key: min(near, key=_rank) if near else _only(case, other, [], []),
            }
            said = {row: read_unit(images[row.key], f"the {row.title} of {case}") for row in roles if row.is_measured}
            paths = {key: str(images[key]) for key in MODALITIES if key in images}
            of = len(near) if place in heads or len(heads) < 2 else sum(map(len, heads.values()))
            several = {f"{other.key}_chosen_of": of} if of > 1 else {}
            units = {f"{row.key}_unit": unit for row, unit in said.items() if unit}
            cases.append({"case": case, **paths, **units, **several})
        except BundleError as error:
            cases.append({"case": case, "problem": str(error)})
    return cases


def _fitting(place: Path, row: Modality, selection: Selection) -> list[Path]:
    return [path for path in _images(place, row) if selection.fits(row, path)]


def _nearest(place: Path, subject: Path, heads: dict[Path, list[Path]]) -> list[Path]:
    """Return the images of a session, else those beside no session, else those of the nearest session."""
    for own in (place, subject):
        if own in heads:
            return heads[own]
    names = sorted(heads, key=lambda path: path.name)
    before = [path for path in names if path.name < place.name]
    return heads[before[-1]] if before else heads[names[0]] if names else []


def _rank(image: Path) -> tuple[Any, ...]:
    """Return what images of one kind are sorted by: the first is taken."""
    entities = entities_of(image)
    run = entities.pop("run", "0")
    return "ce" in entities, len(entities), int(run) if run.isdigit() else 0, image.name


def _images(place: Path, row: Modality) -> list[Path]:
    folder = place / row.bids_folder
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.iterdir()) if (m := _NAME.fullmatch(p.name)) and m[1] == row.bids_suffix]


def _only(case: str, row: Modality, images: list[Path], there: list[Path]) -> Path:
    """Return the only image, or say what there is, by the entities of the names."""
    if len(images) == 1:
        return images[0]
    listed = ", ".join(p.name.split(".")[0].partition("_")[2] for p in images or there)
    what = f"{row.title} ({row.bids_folder}/*_{row.bids_suffix}.nii.gz)"
    remedy = "choose one by --trc, --rec or --run, by a BIDS filter file, or in a manifest"
    if not images:
        remedy = "ask for another" if there else "add it or leave the participant out"
    meant = " that is asked for" if there and not images else ""
    raise BundleError(
        f"{case} must have one {what}{meant}, got {len(images)}{f' ({listed})' if listed else ''}; {remedy}."
    )

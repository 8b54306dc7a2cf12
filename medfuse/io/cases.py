"""A folder of pairs as a list of cases.

Two layouts, which may be mixed; upper and lower case are the same:

    CASE/mri.nii.gz   CASE/pet.nii.gz   CASE/mask.nii.gz   CASE/truth_pet.nii.gz   CASE/case.json
    CASE_mri.nii.gz   CASE_pet.nii.gz   CASE_mask.nii.gz   CASE_truth_pet.nii.gz

In a folder of a case, files may also carry its name (`CASE/CASE_mri.nii.gz`), and instead of a NIfTI there may be a
folder of DICOM files (`CASE/mri/`, `CASE/pet/`). Other files are left alone, and so are sub-folders without either.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError
from medfuse.io.bids import checked_unit
from medfuse.io.texts import read_json

CASE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
SYNONYMS = {"mr": "mri", "t1": "mri", "t1w": "mri", "suv": "pet"}
_SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_FIELD = re.compile(r"[a-z][a-z0-9_]*")


def find_cases(
    dataset_dir: str | Path,
    *,
    keys: Sequence[str] = ("mri", "pet"),
    allow_empty: bool = False,
    tolerant: bool = False,
) -> list[dict[str, Any]]:
    """List the cases of a folder, sorted by id.

    Args:
        dataset_dir: Folder of cases, in one of the layouts of this module.
        keys: What each case must have. A file is matched by its key, or by a synonym of it: mr, t1, t1w for mri; suv
            for pet.
        allow_empty: Return an empty list for a folder that is absent or holds no case, for bundles, which must load
            where there is no data yet; `require_cases` then raises when they run.
        tolerant: List a case that cannot be used as its "case" and "problem", which says why, instead of raising.

    Returns:
        One dictionary per case: "case" (its id), the path of each key, of "mask" and of "truth_" keys where there are
        such files, and the fields of `case.json`, such as `{"aligned": true, "pet_unit": "SUV"}`, or "pet_series", the
        UID of the DICOM series to take.

    Raises:
        BundleError: If the folder is absent or holds no case, a case lacks a file or has two for one key, an id holds
            other characters than letters, digits, ".", "_" and "-", a path holds "#", or a `case.json` is wrong.
    """
    root = Path(dataset_dir)
    if "#" in str(root):
        raise BundleError(f"The path of the data folder must be free of '#', got {root.name!r}; rename the folder.")
    if not root.is_dir():
        if allow_empty:
            return []
        hint = " ('#' in a path becomes '::' in a bundle: rename the folder)" if "::" in str(root) else ""
        raise BundleError(f"The data folder must exist, got no folder {root.name!r}{hint}; check dataset_dir.")

    found: dict[str, dict[str, Path]] = defaultdict(dict)
    problems: dict[str, str] = {}

    def refuse(case: str, message: str) -> None:
        if not tolerant:
            raise BundleError(message)
        problems.setdefault(case, message)

    for case, key, path in _files(root, tuple(keys), refuse):
        if key in found[case]:
            names = f"{found[case][key].name!r} and {path.name!r}"
            refuse(case, f"Case {case} must have one file for {key}, got {names}; remove one.")
        found[case][key] = path
    if not found and not problems and not allow_empty:
        first = keys[0]
        raise BundleError(
            f"The data folder {root.name!r} must hold cases such as CASE/{first}.nii.gz or CASE_{first}.nii.gz, "
            "got none; check dataset_dir and the file names."
        )
    refuse_twins([*found, *problems])
    cases = []
    for case in sorted({*found, *problems}):
        try:
            if case not in problems:
                cases.append(_case(root, case, found[case], keys))
        except BundleError as error:
            if not tolerant:
                raise
            problems[case] = str(error)
        if case in problems:
            cases.append({"case": case, "problem": problems[case]})
    return cases


def require_cases(
    datalist: Sequence[dict[str, Any]], dataset_dir: str | Path, *, keys: Sequence[str] = ("mri", "pet")
) -> None:
    """Raise unless there is a case, for the `run` section of a bundle: MONAI takes no data for success.

    Args:
        datalist: What `find_cases` returned with `allow_empty`.
        dataset_dir: The folder it looked at.
        keys: What each case must have.

    Raises:
        BundleError: If there is no case; the message says why.
    """
    if not datalist:
        find_cases(dataset_dir, keys=keys)
        raise BundleError("The list of cases must hold a case, got none; check dataset_dir and the list.")


def _files(root: Path, keys: tuple[str, ...], refuse: Callable[[str, str], None]) -> Iterator[tuple[str, str, Path]]:
    """Give case id, key and path of every file that belongs to a case."""
    for index, entry in enumerate(sorted(root.iterdir()), start=1):
        if entry.name.startswith("."):
            continue
        try:
            yield from _entry(entry, index, keys, refuse)
        except OSError as error:  # whatever it is, no more can be known of it: it must not be left out without a word
            why = (error.strerror or type(error).__name__).lower()
            case = entry.name if CASE_ID.fullmatch(entry.name) else f"entry-{index}"
            refuse(case, f"The files of case {case} must be readable, got {why!r}; check them and their permissions.")


def _entry(
    entry: Path, index: int, keys: tuple[str, ...], refuse: Callable[[str, str], None]
) -> list[tuple[str, str, Path]]:
    """Return case id, key and path of what belongs to a case in one entry of the data folder."""
    if not entry.is_dir():
        parts = _split(_stem(entry), keys) if _SUFFIX.search(entry.name) else None
        return [(_checked_id(parts[0], index), parts[1], entry)] if parts else []
    inside = sorted(entry.iterdir())
    volumes = [path for path in inside if _SUFFIX.search(path.name)]
    scans = [(key, path) for path in inside if (key := _role(path.name, keys)) in keys and _holds_dicom(path)]
    if not volumes and not scans and not (entry / "case.json").exists():
        return []
    case = _checked_id(entry.name, index)
    matched = [(key, path) for path in volumes if (key := _key(path, case, keys))] + scans
    if not matched:
        message = f"The folder of case {case} must hold {' and '.join(keys)}, got {len(volumes)} NIfTI files "
        refuse(case, f"{message}with other names; name them {keys[0]}.nii.gz and so on.")
    for key, path in matched:
        if path in volumes and not path.is_file():
            got = "a folder" if path.is_dir() else "a link to nothing"
            refuse(case, f"{key} of case {case} must be a file, got {got} of its name; repair it.")
    return [(case, key, path) for key, path in matched]


def _holds_dicom(folder: Path) -> bool:
    """Return whether some file in a folder, or in a folder of it, begins as a DICOM file does (PS3.10 7.1)."""
    for path in walk(folder) if folder.is_dir() else ():
        if path.is_file() and not path.name.startswith("."):
            with path.open("rb") as file:
                if file.read(132)[128:] == b"DICM":
                    return True
    return False


def _case(root: Path, case: str, files: dict[str, Path], keys: Sequence[str]) -> dict[str, Any]:
    missing = [key for key in keys if key not in files]
    if missing:
        present = " and ".join(files) or "nothing"
        raise BundleError(f"Case {case} must have {' and '.join(keys)}, got {present}; add {' and '.join(missing)}.")
    if any("#" in str(path) for path in files.values()):
        raise BundleError(f"The paths of case {case} must be free of '#', got one with it; rename the file.")
    order = [*keys, *sorted(set(files) - set(keys))]
    return {"case": case, **{key: str(files[key]) for key in order}, **_fields(root / case / "case.json", case, files)}


def _fields(path: Path, case: str, files: dict[str, Path]) -> dict[str, Any]:
    """Read the optional fields of a case: plain values, which never replace a path."""
    if not os.path.lexists(path):
        return {}
    try:
        fields = read_json(path)
    except (OSError, ValueError) as error:
        raise BundleError(f"case.json of case {case} must be readable JSON, got an error; repair it.") from error
    if not isinstance(fields, dict):
        raise BundleError(f"case.json of case {case} must be an object, got {type(fields).__name__}; use {{...}}.")
    for name, value in fields.items():
        if name in {"case", "mask", *files} or name.startswith("truth_") or not _FIELD.fullmatch(name):
            raise BundleError(
                f"The fields of case.json of case {case} must be small_letter names that are no file key, got one that "
                "is not; rename it."
            )
        if not isinstance(value, str | bool | int | float):
            raise BundleError(
                f"{name} in case.json of case {case} must be a string, number or boolean, got {type(value).__name__}; "
                "change it."
            )
    for name in fields:
        if name.endswith("_unit"):
            checked_unit(fields[name], f"{name} in case.json of case {case}")
    if not isinstance(fields.get("aligned", False), bool):
        raise BundleError(
            f"aligned in case.json of case {case} must be true or false, got {fields['aligned']!r}; change it."
        )
    return fields


def walk(folder: Path) -> Iterator[Path]:
    """Give all that is in a folder and in its folders, but folders themselves, in the order of their names.

    Raises:
        OSError: If a folder cannot be read, where `Path.rglob` passes it over.
    """

    def stop(error: OSError) -> None:
        raise error

    for base, folders, files in os.walk(folder, onerror=stop):
        folders.sort()
        yield from (Path(base) / name for name in sorted(files))


def refuse_twins(cases: Iterable[str]) -> None:
    """Refuse ids that differ in upper and lower case only: some file systems would mix up their results."""
    seen: dict[str, str] = {}
    for case in cases:
        twin = seen.setdefault(case.lower(), case)
        if twin != case:
            raise BundleError(f"Case ids must differ in more than upper and lower case, got {twin} and {case}; rename.")


def _checked_id(name: str, index: int) -> str:
    if not CASE_ID.fullmatch(name):
        bad = "".join(sorted(set(re.sub(CASE_ID, "", name))))
        got = repr(bad) if bad else f"{len(name)} of them"
        raise BundleError(
            f"A case id must be made of at most 128 letters, digits, '.', '_' and '-', got {got} in the name of entry "
            f"{index} of the data folder; rename it."
        )
    return name


def _key(path: Path, case: str, keys: tuple[str, ...]) -> str | None:
    """Return the key of a file in the folder of a case, or None."""
    stem = _stem(path)
    prefix = f"{case.lower()}_"
    return _role(stem, keys) or (_role(stem[len(prefix) :], keys) if stem.lower().startswith(prefix) else None)


def _split(stem: str, keys: tuple[str, ...]) -> tuple[str, str] | None:
    """Return case and key of the stem `CASE_KEY`, the longest key that fits, or None."""
    for match in re.finditer("_", stem):
        key = _role(stem[match.end() :], keys)
        if key and match.start():
            return stem[: match.start()], key
    return None


def _role(name: str, keys: tuple[str, ...]) -> str | None:
    """Return the key that a name stands for: a wanted key, a synonym, mask, or truth_ and one of these; or None."""
    name = name.lower()
    if name.startswith("truth_"):
        key = _role(name.removeprefix("truth_"), keys)
        return f"truth_{key}" if key in keys else None
    for key in (name, SYNONYMS.get(name, "")):
        if key in keys or key == "mask":
            return key
    return None


def _stem(path: Path) -> str:
    return _SUFFIX.sub("", path.name)

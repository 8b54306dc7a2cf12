"""A folder of pairs as a list of cases.

Two layouts, which may be mixed; upper and lower case are the same:

    CASE/mri.nii.gz   CASE/pet.nii.gz   CASE/mask.nii.gz   CASE/truth_pet.nii.gz   CASE/case.json
    CASE_mri.nii.gz   CASE_pet.nii.gz   CASE_mask.nii.gz   CASE_truth_pet.nii.gz

The names are keys of `medfuse.io.modalities`: those of the two that a bundle takes. In a folder of a case, files may
also carry its name (`CASE/CASE_mri.nii.gz`), and instead of a NIfTI there may be a folder of DICOM files (`CASE/mri/`,
`CASE/pet/`). Other files are left alone, and so are sub-folders without either.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError
from medfuse.io.begin import is_dicom
from medfuse.io.foreign import foreign_format, foreign_message
from medfuse.io.modalities import DEFAULT_PAIR, MODALITIES
from medfuse.io.places import is_result, is_result_folder, require_apart
from medfuse.io.sidecars import sidecar_units
from medfuse.io.texts import read_json
from medfuse.schema import checked_fields, checked_id, checked_items, id_problem, refuse_twins

SYNONYMS = {name: row.key for row in MODALITIES.values() for name in row.synonyms}
_SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)


def find_cases(
    dataset_dir: str | Path,
    *,
    keys: Sequence[str] = DEFAULT_PAIR,
    allow_empty: bool = False,
    tolerant: bool = False,
    leave: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """List the cases of a folder, sorted by id.

    Args:
        dataset_dir: Folder of cases, in one of the layouts of this module.
        keys: What each case must have. A file is matched by its key, or by a synonym of it in
            `medfuse.io.modalities`: mr, t1, t1w for mri; suv for pet.
        allow_empty: Return an empty list for a folder that is absent or holds no case, for bundles, which must load
            where there is no data yet; `require_cases` then raises when they run.
        tolerant: List a case that cannot be used as its "case" and "problem", which says why, instead of raising.
        leave: Folders in it that are none of a case.

    Returns:
        One dictionary per case: "case" (its id), the path of each key, of "mask" and of "truth_" keys where there are
        such files, and the fields of `case.json` (see `medfuse.schema.field_names`), such as "aligned" (true),
        "pet_unit" ("SUV"), or "pet_series", the UID of the DICOM series to take.

    Raises:
        BundleError: If the folder is absent or holds no case, a case lacks a file or has two for one key, an id or a
            `case.json` breaks the rules of `medfuse.schema`.
    """
    root = Path(dataset_dir)
    if not root.is_dir():
        if allow_empty:
            return []
        hint = " ('#' in a path becomes '::' in a bundle: rename the folder)" if "::" in str(root) else ""
        raise BundleError(f"The data folder must exist, got no folder {root.name!r}{hint}; check dataset_dir.")

    if unnamed := [folder for folder in study_folders(root, keys=keys) if folder not in leave]:
        count = f"{len(unnamed)} folder{'s' * (len(unnamed) > 1)}"
        raise BundleError(
            f"Folders of DICOM must be called {' and '.join(keys)} to make a case, got other names in {count}, which "
            "may itself be called after a patient; rename them, or run `medfuse batch`, which needs no such name."
        )
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    problems: dict[str, str] = {}

    def refuse(case: str, message: str) -> None:
        if not tolerant:
            raise BundleError(message)
        problems.setdefault(case, message)

    for case, key, path in _files(root, tuple(keys), refuse, leave):
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
    datalist: Sequence[dict[str, Any]],
    dataset_dir: str | Path,
    output_dir: str | Path | None = None,
    *,
    keys: Sequence[str] = DEFAULT_PAIR,
) -> None:
    """Raise unless all cases may be run, for the `run` section of a bundle: MONAI takes no data for success.

    Args:
        datalist: What `find_cases` returned with `allow_empty`, or a list of the user's own.
        dataset_dir: The folder it looked at.
        output_dir: Where the results go, a folder for each case, apart from the inputs.
        keys: What each case must have.

    Raises:
        BundleError: If there is no case, the message then says why, or one breaks the rules of `medfuse.schema`, or
            results would come to lie among inputs.
    """
    if not datalist:
        find_cases(dataset_dir, keys=keys)
        raise BundleError("The list of cases must hold a case, got none; check dataset_dir and the list.")
    cases = checked_items(datalist, keys=keys)
    if output_dir is not None:
        require_apart(cases, output_dir, Path(output_dir).joinpath)


def study_folders(root: Path, *, keys: Sequence[str] = DEFAULT_PAIR) -> list[Path]:
    """Return the folders of a folder that are DICOM studies of somebody, and no cases that a user has named.

    Where `mri` and `pet` are folders of DICOM, or a `case.json` lies beside them, somebody has made a case. Other
    names, such as `MR` and `PET`, are those of a scanner or an archive, and the folder around them may be called after
    a patient.
    """
    found = []
    for entry in sorted(root.iterdir()):
        with suppress(OSError):  # what cannot be read is a case that fails
            if not entry.name.startswith(".") and entry.is_dir() and _is_study(entry, tuple(keys)):
                found.append(entry)
    return found


def _is_study(folder: Path, keys: tuple[str, ...]) -> bool:
    inside = sorted(folder.iterdir())
    if any(path.name == "case.json" or (_SUFFIX.search(path.name) and path.is_file()) for path in inside):
        return False
    return any(_role(path.name, keys) in set(keys) - {path.name} and _holds_dicom(path) for path in inside)


def _files(
    root: Path, keys: tuple[str, ...], refuse: Callable[[str, str], None], leave: Sequence[Path]
) -> Iterator[tuple[str, str, Path]]:
    """Give case id, key and path of every file that belongs to a case."""
    for index, entry in enumerate(sorted(root.iterdir()), start=1):
        if entry.name.startswith(".") or entry in leave:
            continue
        try:
            yield from _entry(entry, index, keys, refuse)
        except OSError as error:  # whatever it is, no more can be known of it: it must not be left out without a word
            why = (error.strerror or type(error).__name__).lower()
            case = entry.name if id_problem(entry.name) is None else f"entry-{index}"
            refuse(case, f"The files of case {case} must be readable, got {why!r}; check them and their permissions.")


def _entry(
    entry: Path, index: int, keys: tuple[str, ...], refuse: Callable[[str, str], None]
) -> list[tuple[str, str, Path]]:
    """Return case id, key and path of what belongs to a case in one entry of the data folder."""
    where = f" in the name of entry {index} of the data folder"
    if not entry.is_dir():
        if _SUFFIX.search(entry.name) and (parts := _split(_stem(entry), keys)):
            return [(checked_id(parts[0], "A case id", where=where), parts[1], entry)]
        if (parts := _split(_first(entry), keys)) and parts[1] in keys and foreign_format(entry):
            refuse(checked_id(parts[0], "A case id", where=where), foreign_message(entry))
        return []
    inside = sorted(entry.iterdir())
    volumes = [path for path in inside if _SUFFIX.search(path.name)]
    scans = [(key, path) for path in inside if (key := _role(path.name, keys)) in keys and _holds_dicom(path)]
    strange = [path for path in inside if _role(_first(path), keys) in keys and foreign_format(path)]
    if not volumes and not scans and not strange and not (entry / "case.json").exists():
        return []
    case = checked_id(entry.name, "A case id", where=where)
    for path in strange:
        refuse(case, foreign_message(path))
    matched = [(key, path) for path in volumes if (key := _key(path, case, keys))] + scans
    if not matched and not strange:
        if is_result_folder(entry):
            return []
        message = f"The folder of case {case} must hold {' and '.join(keys)}, got {len(volumes)} NIfTI files "
        refuse(case, f"{message}with other names; name them {keys[0]}.nii.gz and so on.")
    for key, path in matched:
        if path in volumes and not path.is_file():
            got = "a folder" if path.is_dir() else "a link to nothing"
            refuse(case, f"{key} of case {case} must be a file, got {got} of its name; repair it.")
    return [(case, key, path) for key, path in matched]


def _holds_dicom(folder: Path) -> bool:
    """Return whether some file in a folder, or in a folder of it, begins as a DICOM file does."""
    for path in walk(folder) if folder.is_dir() else ():
        if path.is_file() and not path.name.startswith(".") and not is_result(path) and is_dicom(path):
            return True
    return False


def _case(root: Path, case: str, files: dict[str, Path], keys: Sequence[str]) -> dict[str, Any]:
    missing = [key for key in keys if key not in files]
    if missing:
        present = " and ".join(files) or "nothing"
        raise BundleError(f"Case {case} must have {' and '.join(keys)}, got {present}; add {' and '.join(missing)}.")
    order = [*keys, *sorted(set(files) - set(keys))]
    fields = _fields(root / case / "case.json", case, keys)
    found = {"case": case, **{key: str(files[key]) for key in order}}
    return found | fields | sidecar_units(found, fields, keys)


def _fields(path: Path, case: str, keys: Sequence[str]) -> dict[str, Any]:
    """Read the optional fields of a case."""
    if not os.path.lexists(path):
        return {}
    try:
        fields = read_json(path)
    except (OSError, ValueError) as error:
        raise BundleError(f"case.json of case {case} must be readable JSON, got an error; repair it.") from error
    return checked_fields(fields, f"case.json of case {case}", keys=keys)


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


def _first(path: Path) -> str:
    """Return a name up to its first dot."""
    return path.name.partition(".")[0]


def _stem(path: Path) -> str:
    return _SUFFIX.sub("", path.name)

"""Find out what kind of input a path is, and list its cases.

In this order: a table of cases; a BIDS dataset; folders of cases as `medfuse.io.find_cases` knows them; a folder of
DICOM studies, one in each sub-folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError, DicomError
from medfuse.io.begin import is_dicom
from medfuse.io.bids import find_bids_cases, is_bids
from medfuse.io.bids_filter import Selection
from medfuse.io.cases import find_cases, study_folders, walk
from medfuse.io.dicom.header import read_header
from medfuse.io.foreign import refuse_foreign
from medfuse.io.manifest import is_manifest, read_manifest
from medfuse.io.modalities import DEFAULT_PAIR
from medfuse.io.places import is_result
from medfuse.schema import id_problem


@dataclass(frozen=True)
class Discovery:
    """What was found.

    Attributes:
        layout: `manifest`, `BIDS dataset`, `case folders` or `DICOM studies`.
        cases: One dictionary per case, sorted by id, ready for a bundle's `datalist`: "case", a path for each modality,
            such as "mri" and "pet", and fields; or "case" and "problem", which says why it cannot be used.
    """

    layout: str
    cases: list[dict[str, Any]]


def discover(
    source: str | Path,
    *,
    participants: Sequence[str] = (),
    sessions: Sequence[str] = (),
    keys: Sequence[str] = DEFAULT_PAIR,
    selection: Selection | None = None,
) -> Discovery:
    """Recognise an input and list its cases.

    Args:
        source: A table (TSV, CSV), or a folder.
        participants: Of a BIDS dataset, the labels of the participants to take; all if none is given.
        sessions: Of a BIDS dataset, the labels of the sessions to take.
        keys: Modalities of the sources, those of a bundle; see `medfuse.bundles.source_keys`.
        selection: Of a BIDS dataset, which of several images are meant, see `medfuse.io.bids_filter`.

    Raises:
        BundleError: If it is none of the layouts, holds no case, or labels are given for anything but a BIDS dataset.
    """
    root = Path(source)
    wanted = Selection() if selection is None else selection
    found = _discover(root, participants, sessions, tuple(keys), wanted)
    if found.layout != "BIDS dataset" and (participants or sessions or wanted.wanted):
        raise BundleError(f"Labels of BIDS entities must come with a BIDS dataset, got {found.layout}; leave them out.")
    return found


def _discover(
    root: Path, participants: Sequence[str], sessions: Sequence[str], keys: tuple[str, ...], selection: Selection
) -> Discovery:
    if not os.path.exists(root):  # noqa: PTH110  (false, too, for a path that cannot be)
        raise BundleError(
            "The input must be a folder, or a manifest in .tsv or .csv, got nothing there; check the path."
        )
    if root.is_file() and is_manifest(root):
        return Discovery("manifest", read_manifest(root, keys=keys))
    if not root.is_dir():
        raise BundleError(
            "The input must be a folder, or a manifest in .tsv or .csv, got another file; check the path."
        )
    if is_bids(root):
        cases = find_bids_cases(root, participants=participants, sessions=sessions, keys=keys, selection=selection)
        return Discovery("BIDS dataset", cases)
    studies = study_folders(root, keys=keys)
    if _holds_nifti(root):
        named = find_cases(root, keys=keys, tolerant=True, allow_empty=bool(studies), leave=studies)
        return Discovery("case folders", sorted([*named, *_studies(studies, keys)], key=lambda case: case["case"]))
    folders, closed = _dicom_folders(root)
    if not folders:
        refuse_foreign(root)
        what = f"{len(closed)} folders that cannot be read" if closed else "a folder with none of them"
        raise BundleError(
            "The input must be a manifest, a BIDS dataset, folders of cases "
            f"(CASE/{keys[0]}.nii.gz) or of DICOM studies, got {what}; check it."
        )
    if not studies and not any(id_problem(folder.name) for folder in folders):
        named = find_cases(root, keys=keys, tolerant=True, allow_empty=True)
        sound = {case["case"] for case in named if "problem" not in case}
        if sound == {folder.name for folder in folders}:
            return Discovery("case folders", named)  # CASE/mri/ and CASE/pet/, both DICOM
    problem = "The folder of {} must be readable with all that is in it, got one that is not; check its permissions."
    unread = [{"case": case, "problem": problem.format(case)} for case in closed]
    return Discovery("DICOM studies", sorted(_studies(folders, keys) + unread, key=lambda case: case["case"]))


def _studies(folders: Sequence[Path], keys: Sequence[str]) -> list[dict[str, Any]]:
    """List the DICOM studies of folders, sorted by id.

    The name of a folder may be that of a patient, and is kept nowhere. The id is hence made of the Study Instance UID:
    `study-` and the first ten digits of its SHA-256.
    """
    cases: dict[str, dict[str, Any]] = {}
    for number, folder in enumerate(folders):
        try:
            study = next((found for path in _dicom_files(folder) if (found := _study_uid(path))), None)
            basis = study.encode() if study else next(_dicom_files(folder)).read_bytes()
        except (OSError, StopIteration):  # it may not be read, or is gone
            study, basis = None, f"folder {number}".encode()
        case = f"study-{hashlib.sha256(basis).hexdigest()[:10]}"
        if study is None:
            cases[case] = {"case": case, "problem": f"{case} must have a readable file, got none; copy it again."}
        elif case in cases:
            cases[case] = {"case": case, "problem": f"{case} must be in one folder, got more; put its series into one."}
        else:
            cases[case] = {"case": case} | dict.fromkeys(keys, str(folder))
    return [cases[case] for case in sorted(cases)]


def _holds_nifti(root: Path) -> bool:
    return any(next(root.glob(pattern), None) for pattern in ("*.nii", "*.nii.gz", "*/*.nii", "*/*.nii.gz"))


def _dicom_folders(root: Path) -> tuple[list[Path], list[str]]:
    """Return the folders of a folder that hold DICOM, themselves or below, and ids for those that cannot be read.

    The name of a folder may be that of a patient: the id says its place among the entries.
    """
    found, closed = [], []
    for index, entry in enumerate(sorted(root.iterdir()), start=1):
        try:
            if not entry.name.startswith(".") and entry.is_dir() and next(_dicom_files(entry), None):
                found.append(entry)
        except OSError:
            closed.append(f"entry-{index}")
    return found, closed


def _dicom_files(folder: Path) -> Iterator[Path]:
    """Give the files of a folder that begin as a DICOM file does, or may do so but cannot be read, and are not ours.

    Raises:
        OSError: If a folder in it cannot be read.
    """
    for path in walk(folder):
        if path.is_file() and not path.name.startswith(".") and not is_result(path):
            try:
                found = is_dicom(path)
            except OSError:
                found = path.suffix.lower() == ".dcm"
            if found:
                yield path


def _study_uid(path: Path) -> str | None:
    """Return the Study Instance UID of a file, or None: the reader says later what is wrong with it."""
    try:
        return read_header(path).study.strip("?") or None
    except DicomError:
        return None

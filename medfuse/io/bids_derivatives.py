"""What fMRIPrep, sMRIPrep and PETPrep have made of a BIDS dataset, in place of its raw images.

| of | taken | instead of |
|---|---|---|
| any of them | `anat/*_desc-preproc_T1w`, with the mask `anat/*_desc-brain_mask` | the raw T1w |
| PETPrep | `pet/*_space-T1w_desc-preproc_pet`, in the space of that T1w: it is not registered again | the raw PET |
| PETPrep, else | `pet/*_from-*_to-T1w_mode-image*_xfm.txt` | a registration of the raw PET |

A transform belongs to the T1w that it leads to: both are taken of one dataset, or neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError
from medfuse.io.bids_filter import entities_of
from medfuse.io.modalities import ANATOMY, UPTAKE
from medfuse.io.sidecars import note_source
from medfuse.io.texts import read_json

PACKAGES = ("fmriprep", "smriprep", "petprep")
_LENGTHY = ("space", "desc", "res", "from", "to", "mode", "label")  # entities that a derivative adds to its source's
_XFM = re.compile(r"sub-.*_from-(?:pet|petref|orig|boldref)_to-T1w_mode-image(?:_desc-coreg)?_xfm\.(?:txt|tfm|mat)")


@dataclass(frozen=True)
class Derivatives:
    """One dataset of derivatives.

    Attributes:
        package: Which program made it, one of `PACKAGES`.
        root: Its folder.
    """

    package: str
    root: Path


def find_derivatives(words: Sequence[str], root: Path) -> list[Derivatives]:
    """Return datasets of derivatives; what their sidecars lack is told by those of the raw dataset from now on.

    Args:
        words: Each `PACKAGE` for `ROOT/derivatives/PACKAGE`, `PACKAGE=FOLDER`, or a folder whose description tells it.
        root: Folder of the raw dataset.

    Raises:
        BundleError: If one is not there, or of another program.
    """
    found = []
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals and name in PACKAGES:
            place = root / "derivatives" / name
        elif equals:
            place = Path(folder)
        else:
            place = Path(word)
            name = _made_by(place)
        if name not in PACKAGES:
            raise BundleError(
                f"Derivatives must be of {', '.join(PACKAGES)}, got another program or none; write PACKAGE=FOLDER."
            )
        if not place.is_dir():
            raise BundleError(f"The derivatives of {name} must be a folder, got none there; write {name}=FOLDER.")
        note_source(place, root)
        found.append(Derivatives(name, place.absolute()))
    return found


def with_derivatives(case: Mapping[str, Any], derivatives: Sequence[Derivatives]) -> dict[str, Any]:
    """Return a case of a BIDS dataset with what derivatives hold of it in place of its raw images.

    Raises:
        BundleError: If they hold nothing of it, or several images where one is meant.
    """
    case = dict(case)
    if "problem" in case or not derivatives:
        return case
    pet = entities_of(Path(case[UPTAKE.key]))
    # PETPrep's own T1w fits what it made of the PET; that of another fits nothing but itself
    for made in sorted(derivatives, key=lambda d: d.package != "petprep"):
        heads = _files(made, pet, "anat", "T1w", desc="preproc")
        if not heads:
            continue
        case[ANATOMY.key] = str(heads[0])
        case.pop(f"{ANATOMY.key}_chosen_of", None)
        if len(heads) > 1:
            case[f"{ANATOMY.key}_chosen_of"] = len(heads)
        masks = _files(made, entities_of(heads[0]), "anat", "mask", desc="brain")
        if masks:
            case.setdefault("mask", str(masks[0]))
        if made.package == "petprep":
            case |= _of_petprep(case, made, pet)
        return case
    raise BundleError(
        f"The derivatives must hold a T1w of {case['case']} (anat/*_desc-preproc_T1w.nii.gz), got none; run them, or "
        "leave the participant out."
    )


def _of_petprep(case: Mapping[str, Any], made: Derivatives, pet: Mapping[str, str]) -> dict[str, Any]:
    aligned = [
        p
        for p in _files(made, pet, UPTAKE.bids_folder, UPTAKE.bids_suffix, desc="preproc", space="T1w")
        if _same_scan(p, pet)
    ]
    if len(aligned) > 1:
        raise BundleError(
            f"petprep must hold one PET of {case['case']} in the space of the T1w, got {len(aligned)}; choose one in a "
            "manifest."
        )
    if aligned:
        return {UPTAKE.key: str(aligned[0]), "aligned": True}
    folders = _folders(made, pet, UPTAKE.bids_folder)
    transforms = sorted(p for f in folders for p in f.glob("*_xfm.*") if _XFM.fullmatch(p.name) and _same_scan(p, pet))
    return {f"{UPTAKE.key}_transform": str(transforms[0])} if transforms else {}


def _folders(made: Derivatives, entities: Mapping[str, str], datatype: str) -> list[Path]:
    """Return the folder of a session, then that of the subject."""
    subject = made.root / f"sub-{entities.get('sub', '')}"
    places = [subject / f"ses-{entities['ses']}", subject] if "ses" in entities else [subject]
    return [folder for place in places if (folder := place / datatype).is_dir()]


def _files(
    made: Derivatives, entities: Mapping[str, str], datatype: str, suffix: str, *, desc: str, space: str | None = None
) -> list[Path]:
    """Return the images of a kind in one space, nearest folder first, those with the fewest entities first."""
    for folder in _folders(made, entities, datatype):
        named = [p for p in folder.iterdir() if re.search(rf"_{suffix}\.nii(\.gz)?$", p.name)]
        fitting = [p for p in named if (e := entities_of(p)).get("desc") == desc and e.get("space") == space]
        if fitting:
            return sorted(fitting, key=lambda p: (len(entities_of(p)), p.name))
    return []


def _same_scan(path: Path, pet: Mapping[str, str]) -> bool:
    """Return whether a file was made of a PET: it has the entities of it that tell scans apart."""
    own = {k: v for k, v in entities_of(path).items() if k not in _LENGTHY}
    return own == {k: v for k, v in pet.items() if k not in _LENGTHY}


def _made_by(folder: Path) -> str:
    try:
        made = read_json(folder / "dataset_description.json")["GeneratedBy"]
        return str(made[0]["Name"]).casefold()
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return ""

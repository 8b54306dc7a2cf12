"""A BIDS derivative dataset: where the outputs of a case lie in it, what they are called, and the files about it all.

Below its folder:

    dataset_description.json   README.md   .bidsignore
    sub-01/[ses-1/]anat/sub-01_[ses-1_]desc-restored_T1w.nii.gz            and a sidecar
    sub-01/[ses-1/]pet/sub-01_[ses-1_]trc-FDG_space-T1w_desc-fused_pet.nii.gz
    sub-01/[ses-1/]medfuse/                                                what BIDS has no name for

Sources are named by BIDS URIs, such as `bids:raw:sub-01/anat/sub-01_T1w.nii.gz`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from medfuse.about import NOTICE, __version__
from medfuse.errors import BundleError
from medfuse.io.atomic import atomic_file, write_json
from medfuse.io.sidecars import bids_root

EXTRAS = "medfuse"
DESCRIPTION = "dataset_description.json"
BIDS_VERSION = "1.10.1"
_RAW = "raw"  # name of the source dataset in BIDS URIs
_ENTITIES = ("sub", "ses", "task", "acq", "ce", "trc", "rec", "run", "echo", "part", "space", "chunk", "desc")
_DOI = re.compile(r"(?:doi:|https://doi\.org/)?(10\.\d{4,9}/[A-Za-z0-9._;()/:-]{1,128})")
_MAX_DESCRIPTION = 1 << 20  # bytes
_IGNORED = ("index.html", "cases.tsv", "plan.tsv", EXTRAS)
_README = f"""# Fused PET and MRI

Written by medfuse {__version__}. {NOTICE}

Each session has a restored MRI (`anat/*_desc-restored_T1w`), a restored PET (`pet/*_desc-restored_pet`), the fused
image (`desc-fused`, normalised and dimensionless), the weight of the MRI in it (`desc-weight`, 0 to 1) and a fusion in
colour, for the eye (`desc-fusedrgb`). All lie on one grid; `space-` says whose, where it is the other source's. Measure
in the sources, never in a fused image.

What BIDS has no name for is in a folder `{EXTRAS}` of each session: the report (HTML), the record of the run (JSON),
pictures, and the registration. `index.html` and `cases.tsv` are about all cases.
"""


def case_folder(case: str) -> str:
    """Return the folder of a case, `sub-01/ses-1` for `sub-01_ses-1`."""
    return case.replace("_ses-", "/ses-")


def derivative_name(source: str | Path, case: str, *, desc: str, space: str | None = None) -> str:
    """Return the name of what was made of a source, without a suffix such as `.nii.gz`.

    Args:
        source: Its file, such as `sub-01_trc-FDG_pet.nii.gz`. Entities that derivatives do not know are left out.
        case: `sub-01` or `sub-01_ses-1`: another session's MRI makes an output of this one.
        desc: Label of what was made.
        space: Label of the grid, where it is another's.
    """
    *pairs, suffix = Path(source).name.split(".")[0].split("_")
    entities = dict(pair.split("-", 1) for pair in pairs if not pair.startswith("ses-"))
    entities |= dict(part.split("-", 1) for part in case.split("_"))
    entities |= {"space": space or "", "desc": desc}
    return "_".join([*(f"{key}-{entities[key]}" for key in _ENTITIES if entities.get(key)), suffix])


def source_uri(path: str | Path, root: Path) -> str:
    """Return the BIDS URI of a file of the source dataset, or of derivatives of it that lie elsewhere."""
    place = Path(path).resolve()
    if place.is_relative_to(root.resolve()):
        return f"bids:{_RAW}:{place.relative_to(root.resolve()).as_posix()}"
    other = bids_root(place)
    return f"bids:{other.name}:{place.relative_to(other).as_posix()}" if other is not None else place.name


def write_dataset(out: Path, root: Path) -> None:
    """Write the files about a derivative dataset.

    The source dataset is named by its DOI, and linked by a relative path where OUT lies in it or beside it: other paths
    tell how a machine is arranged, and the names of folders may be those of persons.

    Args:
        out: Folder of the derivative.
        root: Folder of the source dataset.

    Raises:
        BundleError: If another program's dataset is there.
    """
    check_dataset(out)
    doi, here, there = _doi(root), out.resolve(), root.resolve()
    near = os.path.relpath(there, here) if here.is_relative_to(there.parent) else None
    source = ({"URL": Path(near).as_posix()} if near else {}) | ({"DOI": f"doi:{doi}"} if doi else {})
    link = source.get("URL") or source.get("DOI")
    description: dict[str, Any] = {
        "Name": "Fused PET and MRI",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "medfuse", "Version": __version__, "Description": NOTICE}],
        **({"SourceDatasets": [source], "DatasetLinks": {_RAW: link}} if link else {}),
    }
    write_json(out / DESCRIPTION, description)
    for name, text in (("README.md", _README), (".bidsignore", "\n".join(_IGNORED) + "\n")):
        with atomic_file(out / name) as file:
            file.write(text.encode())


def check_dataset(out: Path) -> None:
    """Raise if a folder holds a dataset that medfuse has not made.

    Raises:
        BundleError: If it does.
    """
    if not (out / DESCRIPTION).exists():
        return
    made_by = _read(out / DESCRIPTION).get("GeneratedBy")
    if not isinstance(made_by, list) or {"medfuse"} != {m.get("Name") for m in made_by if isinstance(m, dict)}:
        raise BundleError("OUT must be free or a dataset of medfuse, got another dataset; choose another folder.")


def _doi(root: Path) -> str | None:
    found = _DOI.fullmatch(str(_read(root / DESCRIPTION).get("DatasetDOI", "")))
    return found[1] if found else None


def _read(path: Path) -> dict[str, Any]:
    """Return a description, empty where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= _MAX_DESCRIPTION else None
    except (OSError, ValueError):
        content = None
    return content if isinstance(content, dict) else {}

"""Masks and atlases: where that of each case lies, and what its labels are called."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError
from medfuse.io.bids_filter import entities_of
from medfuse.io.sidecars import bids_root

_PLACES = ("case", "subject", "session")
_MAX_BYTES = 1 << 20
_NAME_LENGTH = 64


def region_name(text: str) -> str:
    """Return the name of a region as it is shown: its printable signs, apostrophe and & among them, at most 64.

    `<` and `>` become `_`: a name is shown where nobody may have thought of markup.
    """
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    return re.sub("[<>]", "_", shown).strip()[:_NAME_LENGTH].strip()


def label_file(where: str, case: Mapping[str, Any], suffix: str, option: str) -> str:
    """Return the mask or atlas of a case.

    Args:
        where: A path with `{case}`, or `{subject}` and `{session}` (labels without `sub-` and `ses-`) in it; or the
            folder of a BIDS dataset, in which it is the image with that suffix in the space of the T1w.
        case: The case.
        suffix: `mask` or `dseg`.
        option: What to call it in an error.

    Raises:
        BundleError: If there is none, or more than one.
    """
    name = str(case["case"])
    subject, _, session = name.removeprefix("sub-").partition("_ses-")
    if re.search(r"\{.*\}", where):
        unknown = set(re.findall(r"\{(.*?)\}", where)) - set(_PLACES)
        if unknown:
            raise BundleError(f"{option} may hold {{case}}, {{subject}} and {{session}}, got another; correct it.")
        path = Path(where.replace("{case}", name).replace("{subject}", subject).replace("{session}", session))
        if not path.is_file():
            raise BundleError(
                f"{option} must be there for each case, got none for {name}; add it or leave the case out."
            )
        return str(path.absolute())
    if Path(where).is_file():
        raise BundleError(
            f"{option} must hold {{case}}, {{subject}} or {{session}}, or be the folder of a BIDS dataset, got one "
            "file for all cases; write the path with the place of the case's name."
        )
    places = [f"sub-{subject}/ses-{session}/anat", f"sub-{subject}/anat"] if session else [f"sub-{subject}/anat"]
    for folder in (Path(where) / place for place in places):
        there = sorted(folder.glob(f"sub-*_{suffix}.nii*")) if folder.is_dir() else []
        found = [p for p in there if entities_of(p).get("space", "T1w") == "T1w"]
        if len(found) == 1:
            return str(found[0].absolute())
        if found:
            raise BundleError(
                f"{option} must name one image for each case, got {len(found)} for {name}; write a path with "
                "{subject} in it."
            )
    raise BundleError(f"{option} must be there for each case, got none for {name}; add it or leave the case out.")


def label_names(image: Path) -> dict[int, str]:
    """Return what the labels of an image are called, by `index` and `name` of the TSV beside it (BIDS: `_dseg.tsv`).

    A table further up counts where its entities are among those of the image; what cannot be read names nothing.
    """
    image = image.absolute()
    stem, root = image.name.split(".")[0], bids_root(image)
    folders = [image.parent, *(p for p in image.parent.parents if root is not None and p.is_relative_to(root))]
    for folder in folders:
        parts = set(stem.split("_"))
        tables = [
            p
            for p in folder.glob("*.tsv")
            if p.stem == stem or (root and p.stem.endswith("dseg") and set(p.stem.split("_")) <= parts)
        ]
        for table in sorted(tables, key=lambda p: -len(p.stem)):
            if names := _read(table):
                return names
    return {}


def read_labels(table: Path) -> dict[int, str]:
    """Return what labels are called, by `index` and `name` of a table that a person named.

    Raises:
        BundleError: If it is no such table.
    """
    names = _read(table)
    if not names:
        raise BundleError(
            "--labels must be a tab-separated table with the columns index (whole numbers, one name each) and name, as "
            "BIDS has it, got another; correct it."
        )
    return names


def region_label(wanted: str | int, labels: Collection[int], names: Mapping[int, str]) -> int:
    """Return the label of a region that a person names by its number or its name.

    Raises:
        BundleError: There is none, or more than one.
    """
    text = str(wanted).strip()
    found = [label for label in labels if names.get(label, "").casefold() == text.casefold()]
    found = found or [label for label in labels if str(label) == text]
    if len(found) != 1:
        raise BundleError(
            f"--reference must name one region, by its number or its name, got one that {len(found) or 'no'} regions "
            "have; see the labels of the mask or atlas."
        )
    return found[0]


def _read(table: Path) -> dict[int, str]:
    try:
        if table.stat().st_size > _MAX_BYTES:
            return {}
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        names: dict[int, str] = {}
        for row in rows:
            name = region_name(row["name"] or "")
            if name and names.setdefault(int(row["index"]), name) != name:
                return {}  # nobody knows which of two names is meant
        return names
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError):
        return {}

"""A table of cases: TSV or CSV with the columns case, those of the sources, mri and pet, and if wanted, of fields.

Paths are relative to the table. An empty cell, or `n/a`, is none. A table is read in a time that grows with its rows,
and only so far as a cohort goes.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError, nearest
from medfuse.io.modalities import DEFAULT_PAIR
from medfuse.io.sidecars import sidecar_units
from medfuse.schema import checked_id, field_names, is_field, plain, refuse_twins

_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_DELIMITERS = {".tsv": "\t", ".csv": ","}
MAX_BYTES, MAX_LINES = 128 << 20, 200_000
"""Of a table: twice the largest cohort of images there is, with long paths."""
_SHOWN = 3  # columns, ids in a message


def is_manifest(path: Path) -> bool:
    """Return whether a name is that of a table."""
    return path.suffix.lower() in _DELIMITERS


def read_manifest(path: str | Path, *, keys: Sequence[str] = DEFAULT_PAIR) -> list[dict[str, Any]]:
    """List the cases of a table, sorted by id.

    Args:
        path: TSV or CSV file, by its suffix.
        keys: Columns of the sources.

    Returns:
        One dictionary per case, as `medfuse.io.find_cases`; or "case" and "problem" where a row cannot be used.

    Raises:
        BundleError: If the table cannot be read, is larger than `MAX_BYTES` or longer than `MAX_LINES`, lacks a column,
            has an unknown one or no row, or an id is none or not unique. No message repeats a cell: it may name a
            patient.
    """
    path = Path(path)
    cases = []
    for number, cells in read_rows(path, ("case", *keys), (*field_names(keys), *_more_files(keys))):
        checked_id(cells.get("case", ""), f"case in row {number} of the manifest")
        cases.append(_case(cells, path.parent, keys))
    _check_unique([case["case"] for case in cases])
    return sorted(cases, key=lambda case: case["case"])


def read_rows(path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a table.

    Args:
        path: TSV or CSV file, by its suffix.
        required: Columns that must be there.
        optional: Columns that may be.

    Yields:
        Number of each row in the file, and its cells by column. Empty rows and empty cells are left out.

    Raises:
        BundleError: As `read_manifest`, but for what is in a cell.
    """
    if not path.is_file():
        raise BundleError(f"The manifest must be a file, got none at {path.name!r}; check the path.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _too_large()
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, delimiter=_DELIMITERS[path.suffix.lower()], strict=True)
            header, *rows = list(islice(lines, MAX_LINES + 1)) or [[]]
            if next(lines, None) is not None:
                raise _too_large()
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise BundleError(
            "The manifest must be a readable TSV or CSV file in UTF-8, got another; repair it."
        ) from error
    names = [name.strip().lower() for name in header]
    _check_columns(names, required, optional)
    filled = [(number, row) for number, row in enumerate(rows, start=2) if any(cell.strip() for cell in row)]
    if not filled:
        raise BundleError("The manifest must have a row for each case, got none; add them.")
    for number, row in filled:
        if len(row) != len(names):
            raise BundleError(
                f"Row {number} of the manifest must have {len(names)} cells, got {len(row)}; "
                "check its tabs, commas and quotes."
            )
        cells = ((name, cell.strip()) for name, cell in zip(names, row, strict=True))
        yield number, {name: cell for name, cell in cells if cell not in ("", "n/a")}


def _too_large() -> BundleError:
    return BundleError(
        f"The manifest must have at most {MAX_LINES} rows and {MAX_BYTES >> 20} MiB, got more; divide it into several, "
        "each with an OUT of its own."
    )


def _check_columns(names: list[str], required: Sequence[str], optional: Sequence[str]) -> None:
    missing = [name for name in required if name not in names]
    if missing:
        raise BundleError(
            f"The manifest must have the columns {', '.join(required)}, got no {' and no '.join(missing)}; add them."
        )
    known = (*required, *optional)
    unknown = [number for number, name in enumerate(names, start=1) if name not in known]
    if unknown or len(set(names)) < len(names):
        what, remedy = "one twice", "rename or remove it"
        if unknown:
            first = names[unknown[0] - 1]
            remedy = nearest(plain(first), known)
            shown = (
                f", {first!r} first" if is_field(first) or remedy.startswith("write") else ""
            )  # no cell: it may name someone
            what = f"unknown ones (number {_first(map(str, unknown))}){shown}"
        raise BundleError(f"The columns of the manifest must be {', '.join(known)}, got {what}; {remedy}.")


def _check_unique(ids: list[str]) -> None:
    if twice := sorted(case for case, rows in Counter(ids).items() if rows > 1):
        raise BundleError(f"Each case of the manifest must have one row, got more for {_first(twice)}; rename them.")
    refuse_twins(ids)


def _first(names: Iterable[str]) -> str:
    """Return the first of some names, for a message."""
    first = list(islice(names, _SHOWN + 1))
    return ", ".join(first[:_SHOWN]) + (", ..." if len(first) > _SHOWN else "")


def _case(cells: dict[str, str], folder: Path, keys: Sequence[str]) -> dict[str, Any]:
    case: dict[str, Any] = {"case": cells.pop("case")}
    try:
        for key in (*keys, *_more_files(keys)):
            if key in cells:
                file = folder / cells.pop(key)
                if not os.path.exists(file):  # noqa: PTH110  (false, too, for a path that cannot be)
                    raise BundleError(
                        f"{key} of case {case['case']} must be a file or folder, got none there; check its path."
                    )
                case[key] = str(file)
            elif key in keys:
                raise BundleError(f"{key} of case {case['case']} must be given, got an empty cell; fill it in.")
        fields = {key: _value(key, text, case["case"], keys) for key, text in cells.items()}
        return case | fields | sidecar_units(case, fields, keys)
    except BundleError as error:
        return {"case": case["case"], "problem": str(error)}


def _more_files(keys: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of files that a case may have besides its sources."""
    return "mask", "labels", f"{keys[-1]}_transform"


def _value(key: str, text: str, case: str, keys: Sequence[str]) -> Any:
    value = _TRUTH.get(text.lower(), text) if key == "aligned" else text
    return field_names(keys)[key](value, f"{key} of case {case}")

"""Two cases of one person, by their records: what changed in each region."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from medfuse.errors import BundleError
from medfuse.io.atomic import atomic_file
from medfuse.io.modalities import title
from medfuse.regions import compare_regions, tsv
from medfuse.regions.comparison import COLUMNS, change_row, change_sentence

_MAX_BYTES = 64 << 20


def compare_cases(first: str | Path, second: str | Path, *, out: str | Path | None = None) -> dict[str, Any]:
    """Compare the regions of source 2 of two cases, the earlier first.

    Args:
        first: Folder of the earlier case, or its record.
        second: Folder of the later case, or its record.
        out: Table to write (TSV).

    Returns:
        `source`, `unit`, `regions` as `medfuse.regions.compare_regions` returns them, and `sentences`, one for each.

    Raises:
        MedfuseError: There are no such records, or they cannot be compared.
    """
    if out is not None and Path(out).suffix != ".tsv":
        raise BundleError("--out of a comparison must end in .tsv, got another name; rename it.")
    records = [_record(Path(path)) for path in (first, second)]
    regions = compare_regions(*records)
    name = list(records[0]["sources"])[1]
    unit = str(records[0]["sources"][name]["unit"])
    if out is not None:
        with atomic_file(out) as file:
            file.write(tsv(COLUMNS, [change_row(region) for region in regions]).encode())
    sentences = [change_sentence(region, title(name), unit) for region in regions]
    return {"source": name, "unit": unit, "regions": regions, "sentences": sentences}


def _record(path: Path) -> dict[str, Any]:
    """Return the record of a case: that of a path, or the only one in a folder."""
    if not path.is_dir():
        return _read(path)
    found = []
    for file in sorted(path.glob("*.json")):
        with suppress(BundleError):  # another file
            record = _read(file)
            if record.get("case") == file.stem:
                found.append(record)
    if len(found) != 1:
        raise BundleError(f"CASE must be the folder of one case, got {len(found)} records in it; name the record.")
    return found[0]


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BundleError("The record of a case must be small, got a large file; name the right one.")
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(
            "CASE must be a folder of results or a record (JSON), got another; check the path."
        ) from error
    if not isinstance(record, dict) or "sources" not in record:
        raise BundleError("CASE must be the record of a fused case, got another file; name CASE/CASE.json.")
    return record

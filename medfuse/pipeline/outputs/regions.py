"""The values of regions as a table, with a data dictionary beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medfuse.io import write_json
from medfuse.io.atomic import atomic_file
from medfuse.io.modalities import title
from medfuse.pipeline.result import CaseResult
from medfuse.regions import dictionary, region_rows, tsv


def write_regions(result: CaseResult, path: Path) -> None:
    """Write a row for the whole image and one for each region."""
    columns, rows = region_rows(_regions(result))
    with atomic_file(path) as file:
        file.write(tsv([column.name for column in columns], rows).encode())


def write_dictionary(result: CaseResult, path: Path) -> None:
    """Write what each column of the table is, with its unit."""
    columns, _ = region_rows(_regions(result))
    write_json(path, dictionary(columns, title=title(result.names[1]), unit=result.units[1]))


def _regions(result: CaseResult) -> Sequence[Mapping[str, Any]]:
    regions: Sequence[Mapping[str, Any]] = result.record["sources"][result.names[1]]["regions"]
    return regions

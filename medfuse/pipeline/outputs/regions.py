"""The values of regions as a table, with a data dictionary beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medfuse.io import write_json
from medfuse.io.atomic import atomic_file
from medfuse.io.modalities import title
from medfuse.pipeline.result import CaseResult
from medfuse.regions.table import Column, dictionary, region_rows, tsv


def write_regions(result: CaseResult, path: Path) -> None:
    """Write a row for the whole image and one for each region."""
    columns, rows = _table(result)
    with atomic_file(path) as file:
        file.write(tsv([column.name for column in columns], rows).encode())


def write_dictionary(result: CaseResult, path: Path) -> None:
    """Write what each column of the table is, with its unit."""
    columns, _ = _table(result)
    first, second = (title(name) for name in result.names)
    write_json(path, dictionary(columns, titles=(first, second), units=result.units))


def _table(result: CaseResult) -> tuple[list[Column], list[list[Any]]]:
    sources = result.record["sources"]
    one, two = result.names
    return region_rows(sources[two]["regions"], sources[one].get("regions", ()), key=one)

"""The values of regions as a table, TSV with a JSON data dictionary, as BIDS has them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

MISSING = "n/a"  # as BIDS has it
WHOLE = "whole image"
_FIGURES = {
    "mean": ("Mean of the {title}, {state}", "unit"),
    "sd": ("Standard deviation of the voxels of the {title}, {state}, over n", "unit"),
    "max": ("Maximum of the {title}, {state}", "unit"),
    "peak": ("Largest mean over a sphere of 1 ml about a voxel of the region (as SUVpeak of PERCIST), {state}", "unit"),
    "tlg": ("Mean times volume; of an SUV of FDG, the total lesion glycolysis, {state}", "unit ml"),
    "suvr": ("Mean over the mean of the reference region (SUVR), {state}", "ratio"),
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        name: Its heading; `{first}` in it stands for the key of source 1.
        value: Takes it from a region of the record; None where there is none.
        description: What it is; `{title}` stands for the source.
        units: Of its values; `unit` in it stands for that of the source, empty for none.
        first: Whether it is of source 1.
    """

    name: str
    value: Callable[[Mapping[str, Any]], Any]
    description: str
    units: str = ""
    first: bool = False


def _of(*path: str) -> Callable[[Mapping[str, Any]], Any]:
    def value(region: Mapping[str, Any]) -> Any:
        found: Any = region
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    return value


_CERTAIN = (
    Column("restored_mean_sd", _of("interval", "sd"), "Standard deviation of mean of the {title}, restored", "unit"),
    Column("restored_mean_low", _of("interval", "low"), "Lower end of its 95 % interval", "unit"),
    Column("restored_mean_high", _of("interval", "high"), "Upper end of its 95 % interval", "unit"),
    Column(
        "invented_mean", _of("invented", "mean"), "Mean of the {title}, restored, less that by its data alone", "unit"
    ),
    Column("invented_share", _of("invented", "share"), "Root mean square of that of the voxels over the mean", "ratio"),
)
"""How sure a source is."""

COLUMNS: tuple[Column, ...] = (
    Column("index", _of("label"), "Label of the region; n/a for the whole image"),
    Column("name", lambda r: WHOLE if r["label"] is None else r.get("name"), "Name of the region"),
    Column("volume", _of("volume_ml"), "Volume of its voxels on the reference grid", "ml"),
    *(
        Column(f"{state}_{figure}", _of(state, figure), text.replace("{state}", state), units)
        for figure, (text, units) in _FIGURES.items()
        for state in ("given", "restored")
    ),
    *_CERTAIN,
    Column("gate", _of("invented", "gate"), "Mean of the gate: 1, the data alone; 0, the other source guides", "ratio"),
    Column("gtm_mean", _of("gtm"), "Value of the region by the geometric transfer matrix (Rousset 1998)", "unit"),
    Column("rbv_mean", _of("rbv"), "Mean after region-based voxel-wise correction (Thomas 2011)", "unit"),
    *(
        replace(column, name=f"{{first}}_{column.name}", first=True)
        for column in (
            Column("given_mean", _of("given", "mean"), "Mean of the {title}, given", "unit"),
            Column("restored_mean", _of("restored", "mean"), "Mean of the {title}, restored", "unit"),
            *_CERTAIN,
        )
    ),
)
"""All columns, in their order; what no region of a case has is left out."""


def region_rows(
    regions: Sequence[Mapping[str, Any]], first: Sequence[Mapping[str, Any]] = (), *, key: str = ""
) -> tuple[list[Column], list[list[Any]]]:
    """Return the columns that regions of a record fill, and a row for each region; None for what is missing.

    Args:
        regions: Of source 2.
        first: Of source 1, by the same labels, where they are known.
        key: That of source 1, for the names of its columns.
    """
    own = {region["label"]: region for region in first}
    columns, found = [], []
    for column in COLUMNS:
        values = [column.value(own.get(region["label"], {}) if column.first else region) for region in regions]
        if any(value is not None for value in values):
            columns.append(replace(column, name=column.name.replace("{first}", key)))
            found.append(values)
    return columns, [list(row) for row in zip(*found, strict=True)]


def tsv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table as tab-separated text; numbers as Python writes them, so that none loses a digit."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([MISSING if value is None else value for value in row] for row in rows)
    return text.getvalue()


def dictionary(
    columns: Sequence[Column], *, titles: tuple[str, str], units: tuple[str, str]
) -> dict[str, dict[str, str]]:
    """Return what columns mean, as the JSON beside a TSV in BIDS has it.

    Args:
        columns: As `region_rows` returns them.
        titles: What both sources are called.
        units: Of both.
    """
    found = {}
    for column in columns:
        title, unit = (pair[0 if column.first else 1] for pair in (titles, units))
        found[column.name] = {"Description": column.description.replace("{title}", title)}
        if column.units:
            found[column.name]["Units"] = column.units.replace("unit", unit)
    return found

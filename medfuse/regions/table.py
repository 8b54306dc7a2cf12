"""The values of regions as a table, TSV with a JSON data dictionary, as BIDS has them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
        name: Its heading.
        value: Takes it from a region of the record; None where there is none.
        description: What it is; `{title}` stands for the source.
        units: Of its values; `unit` in it stands for that of the source, empty for none.
    """

    name: str
    value: Callable[[Mapping[str, Any]], Any]
    description: str
    units: str = ""


def _of(*path: str) -> Callable[[Mapping[str, Any]], Any]:
    def value(region: Mapping[str, Any]) -> Any:
        found: Any = region
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    return value


COLUMNS: tuple[Column, ...] = (
    Column("index", _of("label"), "Label of the region; n/a for the whole image"),
    Column("name", lambda r: WHOLE if r["label"] is None else r.get("name"), "Name of the region"),
    Column("volume", _of("volume_ml"), "Volume of its voxels on the reference grid", "ml"),
    *(
        Column(f"{state}_{figure}", _of(state, figure), text.replace("{state}", state), units)
        for figure, (text, units) in _FIGURES.items()
        for state in ("given", "restored")
    ),
    Column(
        "restored_mean_sd", _of("interval", "sd"), "Standard deviation of the mean of the {title}, restored", "unit"
    ),
    Column("restored_mean_low", _of("interval", "low"), "Lower end of its 95 % interval", "unit"),
    Column("restored_mean_high", _of("interval", "high"), "Upper end of its 95 % interval", "unit"),
    Column(
        "invented_mean", _of("invented", "mean"), "Mean of the {title}, restored, less that by its data alone", "unit"
    ),
    Column("invented_share", _of("invented", "share"), "Root mean square of that of the voxels over the mean", "ratio"),
    Column("gate", _of("invented", "gate"), "Mean of the gate: 1, the data alone; 0, the other source guides", "ratio"),
    Column("gtm_mean", _of("gtm"), "Value of the region by the geometric transfer matrix (Rousset 1998)", "unit"),
    Column("rbv_mean", _of("rbv"), "Mean after region-based voxel-wise correction (Thomas 2011)", "unit"),
)
"""All columns, in their order; what no region of a case has is left out."""


def region_rows(regions: Sequence[Mapping[str, Any]]) -> tuple[list[Column], list[list[Any]]]:
    """Return the columns that regions of a record fill, and a row for each region; None for what is missing."""
    columns = [c for c in COLUMNS if any(c.value(region) is not None for region in regions)]
    return columns, [[column.value(region) for column in columns] for region in regions]


def tsv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table as tab-separated text; numbers as Python writes them, so that none loses a digit."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([MISSING if value is None else value for value in row] for row in rows)
    return text.getvalue()


def dictionary(columns: Sequence[Column], *, title: str, unit: str) -> dict[str, dict[str, str]]:
    """Return what columns mean, as the JSON beside a TSV in BIDS has it."""
    found = {}
    for column in columns:
        found[column.name] = {"Description": column.description.replace("{title}", title)}
        if column.units:
            found[column.name]["Units"] = column.units.replace("unit", unit)
    return found

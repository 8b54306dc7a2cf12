"""What the tables of a BIDS dataset say of the body of a participant. Loads neither torch nor MONAI."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medfuse.io.sidecars import source_root
from medfuse.io.texts import read_json

_COLUMNS = {"weight": ("weight", "body_weight", "patientweight"), "size": ("height", "size"), "sex": ("sex", "gender")}
_UNITS = {"weight": {"kg": 1.0, "g": 1e-3, "lb": 0.45359237, "lbs": 0.45359237}, "size": {"m": 1.0, "cm": 0.01}}
_TALL = 3.0  # m, beyond which a height without a unit is in cm
_MAX_BYTES = 1 << 24


def find_body(image: Path) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Return weight (kg), size (m) and sex (M, F) of the participant of an image, and the tables that were read.

    A session's table, `sub-01/sub-01_sessions.tsv`, counts before `participants.tsv`; what cannot be read says nothing.
    """
    root = source_root(image)
    if root is None:
        return {}, ()
    entities = dict(part.split("-", 1) for part in image.name.split(".")[0].split("_") if "-" in part)
    subject = f"sub-{entities.get('sub', '')}"
    session = f"ses-{entities['ses']}" if "ses" in entities else ""
    found: dict[str, Any] = {}
    read: list[Path] = []
    for table, column, label in (
        (root / "participants.tsv", "participant_id", subject),
        (root / subject / f"{subject}_sessions.tsv", "session_id", session),
    ):
        if label and table.is_file():
            found |= _of_row(_row(table, column, label), _described(table.with_suffix(".json")))
            read += [path for path in (table, table.with_suffix(".json")) if path.is_file()]
    return found, tuple(read)


def _row(table: Path, column: str, label: str) -> dict[str, str]:
    try:
        if table.stat().st_size > _MAX_BYTES:
            return {}
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t")
            return next(
                (
                    {k.strip().casefold(): v for k, v in row.items() if k and v}
                    for row in rows
                    if row.get(column) == label
                ),
                {},
            )
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}


def _described(path: Path) -> Mapping[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return {str(k).casefold(): v for k, v in content.items()} if isinstance(content, dict) else {}


def _of_row(row: Mapping[str, str], described: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, columns in _COLUMNS.items():
        column = next((c for c in columns if row.get(c, "").strip() not in ("", "n/a")), None)
        if column is None:
            continue
        text = row[column].strip()
        if name == "sex":
            found |= {"sex": text[0].upper()} if text.casefold() in ("m", "f", "male", "female") else {}
            continue
        try:
            value = float(text)
        except ValueError:
            continue
        about = described.get(column)
        unit = str((about.get("Units") or "") if isinstance(about, dict) else "").strip().casefold()
        usual = "kg" if name == "weight" else "cm" if value > _TALL else "m"
        scale = _UNITS[name].get(unit or usual)
        found |= {name: value * scale} if scale else {}
    return found

"""Pictures and pages of results: of a case, and over all cases of a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.pipeline.layout import case_homes
from medfuse.report import degradation_name, save_group_page, save_mosaic, save_preview, save_report

if TYPE_CHECKING:
    from medfuse.pipeline.case import CaseResult

GROUP_PAGE = "index.html"


def write_mosaic(result: CaseResult, folder: Path) -> None:
    """Draw sources, restored, fused and colour fusion in three planes."""
    save_mosaic(
        folder / f"{result.case}_mosaic.png",
        fused=result.fused,
        weight=result.weight,
        units=result.units,
        title=result.case,
        notes=_notes(result.record),
        **_shown(result),
    )


def write_preview(result: CaseResult, folder: Path) -> None:
    """Draw the small picture that stands for the case on the page over all cases."""
    save_preview(folder / f"{result.case}_preview.jpg", **_shown(result))


def write_report(result: CaseResult, folder: Path) -> None:
    """Write the report of a case: one HTML file that opens offline."""
    save_report(
        folder / f"{result.case}_report.html",
        record=result.record,
        fused=result.fused,
        weight=result.weight,
        residuals=result.residuals,
        before=result.before,
        **_shown(result),
    )


def write_group_page(output_dir: str | Path) -> Path:
    """Write `index.html` over all cases whose record lies in a folder, of this run and of earlier ones.

    Args:
        output_dir: Folder with `CASE/CASE.json`, or `CASE/CASE_failed.json` of a case that could not be fused, or a
            BIDS derivative dataset of medfuse.

    Returns:
        The page.
    """
    root = Path(output_dir)
    records, failures, previews = [], {}, {}
    for case, folder in case_homes(root):
        preview = folder / f"{case}_preview.jpg"
        record = _read(folder / f"{case}.json", case)
        failed = _read(folder / f"{case}_failed.json", case)
        if record is not None and isinstance(record.get("sources"), dict):
            records.append({**record, "folder": folder.relative_to(root).as_posix()})
            if preview.is_file():
                previews[case] = preview.read_bytes()
        elif failed is not None:
            failures[case] = str(failed.get("message", ""))
    save_group_page(root / GROUP_PAGE, records, failures=failures, previews=previews)
    return root / GROUP_PAGE


def _read(path: Path, case: str) -> dict[str, Any] | None:
    """Return the record of a case; None for what is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("case") == case else None


def _shown(result: CaseResult) -> dict[str, Any]:
    """Return what every picture shows."""
    return {
        "sources": result.sources,
        "restored": result.restored,
        "rgb": result.rgb,
        "affine": result.affine,
        "pet_window": result.window,
        "palette": result.palette,
    }


def _notes(record: Mapping[str, Any]) -> list[str]:
    steps = "" if record["steps"] is None else f", {record['steps']} steps"
    notes = [f"Degradation: {degradation_name(record['degradation'])}{steps}"]
    chi2 = {k.upper(): v["residual_chi2"] for k, v in record["sources"].items() if v["residual_chi2"] is not None}
    if chi2:
        notes.append("Residual chi-square: " + ", ".join(f"{k} {v:.2f}" for k, v in chi2.items()))
    registration = record["registration"]
    if isinstance(registration, Mapping) and not registration.get("accepted", True):
        notes.append("Warning: registration was not accepted; the images were fused as they lay.")
    elif isinstance(registration, Mapping) and registration.get("warnings"):
        notes.append(f"Warning: registration: {'; '.join(registration['warnings'])}.")
    return notes

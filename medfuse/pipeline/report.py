"""The pages about results: the report of a case, and the page over all cases of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfuse.pipeline.layout import case_homes
from medfuse.report import save_group_page, save_report

if TYPE_CHECKING:
    from medfuse.pipeline.case import CaseResult

GROUP_PAGE = "index.html"


def write_report(result: CaseResult, folder: Path) -> None:
    """Write the report of a case: one HTML file that opens offline."""
    save_report(
        folder / f"{result.case}_report.html",
        record=result.record,
        sources=result.sources,
        restored=result.restored,
        fused=result.fused,
        rgb=result.rgb,
        weight=result.weight,
        affine=result.affine,
        pet_window=result.window,
        palette=result.palette,
        residuals=result.residuals,
    )


def write_group_page(output_dir: str | Path) -> Path:
    """Write `index.html` over all cases whose record lies in a folder, of this run and of earlier ones.

    Args:
        output_dir: Folder with `CASE/CASE.json`, or a BIDS derivative dataset of medfuse.

    Returns:
        The page.
    """
    root = Path(output_dir)
    records = [
        {**record, "folder": home.relative_to(root).as_posix()}
        for case, home in case_homes(root)
        if (record := _record(home / f"{case}.json")) is not None
    ]
    save_group_page(root / GROUP_PAGE, records)
    return root / GROUP_PAGE


def _record(path: Path) -> dict[str, Any] | None:
    """Return the record of a case; None for what is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(record, dict) and record.get("case") == path.stem and isinstance(record.get("sources"), dict)
    return record if known else None

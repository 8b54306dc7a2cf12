"""The page over all cases of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medfuse.pipeline.layout import case_homes
from medfuse.report import save_group_page

GROUP_PAGE = "index.html"


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
        if failed is not None:  # beside results of an earlier run, too
            failures[case] = str(failed.get("message", ""))
        elif record is not None and isinstance(record.get("sources"), dict):
            records.append({**record, "folder": folder.relative_to(root).as_posix()})
            if preview.is_file():
                previews[case] = preview.read_bytes()
    save_group_page(root / GROUP_PAGE, records, failures=failures, previews=previews)
    return root / GROUP_PAGE


def _read(path: Path, case: str) -> dict[str, Any] | None:
    """Return the record of a case; None for what is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("case") == case else None

"""Draw the history of the speed, docs/images/speed.svg, from speed.json beside this file; needs nothing but Python."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

HISTORY = Path(__file__).with_name("speed.json")
PICTURE = Path(__file__).parents[1] / "images" / "speed.svg"
_MOST = 4.0  # times as long a bar as that of 1
_ROW, _TEXT, _WIDTH, _TOP = 19, 400, 880, 30
_COLOURS = ("#0b6e99", "#b5651d", "#4b7d3c", "#7a4b94")  # told apart by people who see few colours, and by the text


def draw(history: list[dict[str, Any]]) -> str:
    """Return a picture of the last record of each kind: a bar for each ratio, times as fast as the other."""
    last: dict[tuple[str, bool], dict[str, Any]] = {}
    for record in history:
        known = last.get((record["against"], record["equal"]), {"rows": []})
        names = {row["name"] for row in record["rows"]}
        kept = [row for row in known["rows"] if row["name"] not in names]
        last[record["against"], record["equal"]] = record | {"rows": kept + record["rows"]}
    lines, y = [], _TOP
    groups = [(record, [row for row in record["rows"] if "ratio" in row]) for record in last.values()]
    most = min(_MOST, max((row["ratio"] for _, rows in groups for row in rows), default=1.0))
    scale = (_WIDTH - _TEXT - 60) / most
    for k, (record, rows) in enumerate(groups):
        colour = _COLOURS[k % len(_COLOURS)]
        title = f"medfuse {record['version']} against {record['against']}" + (
            ", equal network" if record["equal"] else ""
        )
        lines.append(f'<text x="8" y="{y + 13}" font-weight="bold">{escape(title)}, {record["date"]}</text>')
        y += _ROW
        for row in rows:
            length = max(min(row["ratio"], most) * scale, 1)  # its number tells what is longer
            lines.append(f'<text x="{_TEXT - 8}" y="{y + 13}" text-anchor="end">{escape(row["name"])}</text>')
            lines.append(f'<rect x="{_TEXT}" y="{y + 3}" width="{length:.1f}" height="12" fill="{colour}"/>')
            lines.append(f'<text x="{_TEXT + length + 6:.1f}" y="{y + 13}">{row["ratio"]:.2f}</text>')
            y += _ROW
        y += _ROW // 2
    one = _TEXT + scale
    axis = f'<path d="M{one:.1f} {_TOP} V{y}" stroke="#666" stroke-dasharray="3 3"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 8}" role="img" font-size="12" '
        'font-family="sans-serif" fill="#222"><title>Ratios of time, 1 at the dashed line</title>'
        f'<rect width="100%" height="100%" fill="#fff"/>{axis}' + "\n".join(lines) + "</svg>\n"
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(json.loads(HISTORY.read_text())))

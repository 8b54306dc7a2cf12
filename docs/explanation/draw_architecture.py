"""Draw the rooms of the package and what they import, from the code: docs/images/architecture.svg.

python docs/explanation/draw_architecture.py
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

import grimp

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
WIDTH, ROW, BOX, HIGH = 900, 74, 128, 34


def layers() -> list[list[str]]:
    """Return the rooms, from the highest layer down, as the contract of pyproject.toml has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    whole = next(c for c in contracts if c["name"] == "imports run downwards")
    return [[room.strip() for room in layer.split("|")] for layer in whole["layers"] if layer != "__main__"]


def imports(rooms: list[str]) -> set[tuple[str, str]]:
    """Return which room imports which."""
    graph = grimp.build_graph("medfuse")
    for room in rooms:
        graph.squash_module(f"medfuse.{room}")
    pairs = ((a, b) for a in rooms for b in rooms if a != b)
    return {(a, b) for a, b in pairs if graph.direct_import_exists(importer=f"medfuse.{a}", imported=f"medfuse.{b}")}


def draw() -> str:
    """Return the picture."""
    rows = layers()
    place = {
        room: (WIDTH * (i + 1) / (len(row) + 1), 30 + ROW * k)
        for k, row in enumerate(rows)
        for i, room in enumerate(row)
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {ROW * len(rows)}" font-family="sans-serif" '
        'font-size="14" text-anchor="middle">',
        "<title>Rooms of medfuse; lines go down to what a room imports</title>",
    ]
    for a, b in sorted(imports([room for room in place if room != "errors"])):
        (x1, y1), (x2, y2) = place[a], place[b]
        parts.append(
            f'<line x1="{x1:.0f}" y1="{y1 + HIGH / 2:.0f}" x2="{x2:.0f}" y2="{y2 - HIGH / 2:.0f}" stroke="#9aa5b1"/>'
        )
    for room, (x, y) in place.items():
        parts.append(
            f'<rect x="{x - BOX / 2:.0f}" y="{y - HIGH / 2:.0f}" width="{BOX}" height="{HIGH}" rx="6" fill="#eef2f6" '
            f'stroke="#52606d"/><text x="{x:.0f}" y="{y + 5:.0f}">{escape(room)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")

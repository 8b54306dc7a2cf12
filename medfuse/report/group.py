"""A page over many cases: what became of each, and which to look at first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medfuse.io.atomic import atomic_file
from medfuse.io.modalities import DEFAULT_PAIR, titles
from medfuse.progress import counted
from medfuse.report.degradations import degradation_name
from medfuse.report.finding import Finding
from medfuse.report.findings import CHI2_HIGH, findings
from medfuse.report.html import registration_state
from medfuse.report.markup import Markup, data_url, element, join, page, section
from medfuse.report.numbers import number_text

_WIDTH, _HEIGHT = 400, 60  # px of a plot
_NUMBERS, _UNIT = (3, 4, 5, 6, 7), 8

Case = tuple[Mapping[str, Any], list[Finding]]


def save_group_page(
    path: str | Path,
    records: Sequence[Mapping[str, Any]],
    *,
    failures: Mapping[str, str] | None = None,
    previews: Mapping[str, bytes] | None = None,
) -> None:
    """Save a page over many cases, with a link to the report of each; cases with most warnings come first.

    Args:
        path: HTML to write, atomically; reports are looked for beside it, at `CASE/CASE_report.html`.
        records: Records of cases, as their JSON holds them; a "folder" says where else a report lies.
        failures: Why a case could not be fused, by its name.
        previews: JPEG of each case, by its name.
    """
    cases = [(record, findings(record)) for record in records]
    cases.sort(key=lambda c: (-len(_warnings(c[1])), str(c[0].get("case", ""))))
    failed = dict(sorted((failures or {}).items()))
    first, second = names = _names(records)
    kind = element("p", f"{second}-{first} fusion", class_="kind")
    body = join(
        [
            element("header", kind, element("h1", counted(len(cases), "case"))),
            _summary(cases, failed),
            _failures(failed),
            _plots([record for record, _ in cases], names),
            _table(cases, previews or {}, names),
        ]
    )
    with atomic_file(path) as file:
        file.write(page("Fusion of many cases", body, scripts=("group.js",)).encode())


def _names(records: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return what the sources are called on the page: by modality, where that is one in all cases."""
    pairs = {titles(list(sources)) for record in records if len(sources := record.get("sources") or {}) == 2}
    first, second = pairs.pop() if len(pairs) == 1 else ("source 1", "source 2") if pairs else titles(DEFAULT_PAIR)
    return first, second


def _head(names: tuple[str, str]) -> tuple[str, ...]:
    """Return the titles of the columns of the table."""
    first, second = names
    return (
        "Case", "Warnings", "Registration", "Moved [mm]", f"Chi-square {first}", f"Chi-square {second}",
        f"{second} max, given", f"{second} max, restored", f"{second} unit", "Degradation",
    )  # fmt: skip


def _warnings(found: Sequence[Finding]) -> list[str]:
    return [f.text for f in found if f.level == "warning"]


def _chi2(record: Mapping[str, Any], place: int) -> float | None:
    sources = list((record.get("sources") or {}).values())
    return sources[place].get("residual_chi2") if place < len(sources) else None


def _moved(record: Mapping[str, Any]) -> float | None:
    registration = record.get("registration") or {}
    accepted = registration.get("performed") and registration.get("accepted")
    return registration.get("max_displacement") if accepted else None


def _summary(cases: Sequence[Case], failed: Mapping[str, str]) -> Markup:
    states = [registration_state(record).split(",")[0] for record, _ in cases]
    facts = [
        ("Fused", str(len(cases))),
        ("With warnings", str(sum(bool(_warnings(found)) for _, found in cases))),
        ("Could not be fused", str(len(failed))),
        ("Registration", f"{states.count('accepted')} accepted, {states.count('refused')} refused"),
        ("Different weights", str(len({record.get("weights_sha256") for record, _ in cases}))),
        ("Versions of medfuse", ", ".join(sorted({_version(record) for record, _ in cases})) or "-"),
    ]
    return element("dl", *(element("div", element("dt", k), element("dd", v)) for k, v in facts), class_="facts")


def _failures(failed: Mapping[str, str]) -> Markup:
    if not failed:
        return Markup("")
    items = [element("li", element("strong", f"{case}: "), why, class_="warning") for case, why in failed.items()]
    return section("failures", "Could not be fused", element("ul", *items, class_="findings"))


def _version(record: Mapping[str, Any]) -> str:
    return str((record.get("versions") or {}).get("medfuse", "unknown"))


def _plots(records: Sequence[Mapping[str, Any]], names: tuple[str, str]) -> Markup:
    """Draw one dot a case: outliers are seen at a glance."""
    rows = [
        *((f"Residual chi-square, {n}", [(r, _chi2(r, k)) for r in records], CHI2_HIGH) for k, n in enumerate(names)),
        ("Moved by registration [mm]", [(r, _moved(r)) for r in records], None),
    ]
    known = [(title, [(r, float(v)) for r, v in pairs if v is not None], limit) for title, pairs, limit in rows]
    known = [row for row in known if row[1]]
    if not known:
        return Markup("")
    plots = element("div", *(_dots(*row) for row in known), class_="plots")
    hint = "A dot is a case. Right of a dashed line, look."
    mouse = element("span", " Its name appears under the mouse.", class_="screen")
    return section("spread", "All cases at a glance", plots, element("p", hint, mouse, class_="hint"))


def _dots(title: str, pairs: Sequence[tuple[Mapping[str, Any], float]], limit: float | None) -> Markup:
    top = _round_up(max([v for _, v in pairs] + ([limit] if limit else []) + [1e-6]))
    middle, left, right = _HEIGHT // 2 + 2, 10, _WIDTH - 20

    def place(value: float) -> str:
        return f"{left + (right - left) * min(max(value / top, 0.0), 1.0):.1f}"

    parts = [element("text", title, x=0, y=middle - 15), element("line", x1=left, x2=right, y1=middle, y2=middle)]
    parts += [element("text", f"{v:.3g}", x=place(v), y=middle + 18, text_anchor="middle") for v in (0.0, top / 2, top)]
    if limit:
        parts.append(element("line", x1=place(limit), x2=place(limit), y1=middle - 9, y2=middle + 9, class_="limit"))
    for record, value in pairs:
        label = element("title", f"{record.get('case', '')}: {value:.3g}")
        parts.append(element("circle", label, cx=place(value), cy=middle, r=5))
    name = f"{title}: one dot a case; the numbers are in the table"
    return element("svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", class_="plot", role="img", aria_label=name)


def _round_up(value: float) -> float:
    """Return the next of 1, 1.5, 2, 3, 4, 6, 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next((s * power for s in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0) if value <= s * power), 10.0 * power)


def _table(cases: Sequence[Case], previews: Mapping[str, bytes], names: tuple[str, str]) -> Markup:
    columns = _head(names)
    head = [
        element(
            "th", element("button", title, type="button", data_sort=str(k)), scope="col",
            aria_sort="descending" if title == "Warnings" else "none", class_="number" if k in _NUMBERS else None,
        )
        for k, title in enumerate(columns)
    ]  # fmt: skip
    rows = [element("tr", *_cells(record, found, previews, names)) for record, found in cases]
    caption = "Every case, most warnings first; the titles sort"
    if previews:
        caption += f". The pictures show an axial plane of {names[0]}, {names[1]} and colour fusion"
    search = element("label", "Find a case ", element("input", type="search", id="filter", autocomplete="off"))
    return section(
        "cases",
        "Cases",
        element("div", search, element("output", counted(len(cases), "case"), id="shown"), class_="controls"),
        element(
            "div",
            element("table", element("caption", caption), element("thead", element("tr", *head)),
                    element("tbody", *rows), id="cases-table"),
            class_="table", tabindex="0", role="region", aria_label=caption,
        ),
    )  # fmt: skip


def _cells(
    record: Mapping[str, Any], found: Sequence[Finding], previews: Mapping[str, bytes], names: tuple[str, str]
) -> list[Markup]:
    case, warnings = str(record.get("case", "")), _warnings(found)
    target = f"./{quote(str(record.get('folder', case)))}/{quote(case, safe='')}_report.html"
    second = list((record.get("sources") or {"": {}}).values())[-1]
    whole: Mapping[str, Any] = next(iter(second.get("regions") or ()), {})
    link: list[Any] = [case]
    told = [element("li", text.split(". ")[0].rstrip(".") + ".") for text in warnings]
    if case in previews:
        alt = f"Axial plane of {names[0]}, {names[1]} and colour fusion of {case}"
        link.append(element("img", src=data_url(previews[case], "jpeg"), alt=alt, width="192", height="64"))
    cells = [
        element("th", element("a", *link, href=target), scope="row", data_value=case),
        element("td", element("ul", *told) if told else "none", class_="told", data_value=len(told)),
    ]
    values = [
        registration_state(record).split(",")[0],
        _moved(record),
        _chi2(record, 0),
        _chi2(record, 1),
        (whole.get("given") or {}).get("max"),
        (whole.get("restored") or {}).get("max"),
        second.get("unit", ""),
        degradation_name(record.get("degradation") or {}),
    ]
    for k, value in enumerate(values, 2):
        text = value if isinstance(value, str) else number_text(value, digits=3)
        kind = "number" if k in _NUMBERS else "unit" if k == _UNIT else None
        shown = "" if value is None else value
        cells.append(element("td", text, class_=kind, data_title=_head(names)[k], data_value=shown))
    return cells

"""HTML by small functions: every text is escaped here, and a page allows no connection and no script but its own."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from medfuse.about import NOTICE
from medfuse.guide import SECTIONS


class Markup(str):
    """Text that is HTML already; everything else is escaped by `markup`."""

    __slots__ = ()


def markup(value: Any) -> Markup:
    """Return a value as HTML, escaped unless it is `Markup`."""
    return value if isinstance(value, Markup) else Markup(escape(str(value)))


def element(tag: str, /, *children: Any, **attributes: Any) -> Markup:
    """Return an element; None and False leave an attribute out, True gives it no value.

    Args:
        tag: Its name.
        children: Text, which is escaped, or `Markup`.
        attributes: Attributes; a trailing underscore is dropped (`class_`), others become hyphens.
    """
    parts = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(f" {key}")
        elif value is not None and value is not False:
            parts.append(f' {key}="{escape(str(value))}"')
    start = f"<{tag}{''.join(parts)}>"
    if tag in ("meta", "img", "input", "br"):
        return Markup(start)
    return Markup(f"{start}{''.join(markup(c) for c in children)}</{tag}>")


def join(parts: Sequence[Any]) -> Markup:
    """Return parts after one another."""
    return Markup("".join(markup(p) for p in parts))


def table(head: Sequence[Any], rows: Sequence[Sequence[Any]], *, caption: str, numbers_from: int = 1) -> Markup:
    """Return a table whose first column names its rows.

    Args:
        head: Titles of the columns.
        rows: Cells.
        caption: What it shows.
        numbers_from: First column of numbers, aligned to the right.
    """

    def kind(column: int) -> str | None:
        return "number" if column >= numbers_from else None

    titles = [element("th", title, scope="col", class_=kind(k)) for k, title in enumerate(head)]
    body = []
    for row in rows:
        cells = [
            element("td", cell, class_=kind(k)) if k else element("th", cell, scope="row") for k, cell in enumerate(row)
        ]
        body.append(element("tr", *cells))
    return element(
        "div",
        element(
            "table", element("caption", caption), element("thead", element("tr", *titles)), element("tbody", *body)
        ),
        class_="table",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def section(identity: str, title: str, *children: Any) -> Markup:
    """Return a section with a heading, and the page of the documentation that helps with it where there is one."""
    more = [element("p", f"Documentation: {SECTIONS[identity]}", class_="hint")] if identity in SECTIONS else []
    return element("section", element("h2", title, id=f"{identity}-title"), *children, *more, id=identity,
                   aria_labelledby=f"{identity}-title")  # fmt: skip


def picture(png: bytes, alt: str, caption: str) -> Markup:
    """Return a PNG inline, with a caption; a click or Enter shows it in its own size."""
    image = element("img", src=data_url(png, "png"), alt=alt)
    frame = element("div", image, class_="frame", tabindex="0", role="region", aria_label=alt)
    enlarges = element("span", " A click, or Enter, enlarges.", class_="screen")
    swipe = element("span", " Swipe sideways for the rest.", class_="screen narrow")
    return element("figure", frame, element("figcaption", caption, enlarges, swipe))


def data_url(image: bytes, kind: str) -> str:
    """Return a picture as the address of itself; kind is png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def json_block(identity: str, value: Any) -> Markup:
    """Return data for a script, which no text in it can leave."""
    text = json.dumps(value, allow_nan=False, sort_keys=True)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(f'<script type="application/json" id="{escape(identity)}">{text}</script>')


def asset(name: str) -> str:
    """Return the text of a file that comes with the package."""
    return (files("medfuse.report") / "assets" / name).read_text(encoding="utf-8")


def page(title: str, body: Any, *, scripts: Sequence[str]) -> str:
    """Return a whole page that loads nothing from anywhere.

    Args:
        title: Its title.
        body: What is between the notices at the top and at the bottom.
        scripts: Names of assets, run at the end of the page in this order.
    """
    codes = [asset(name) for name in scripts]
    digests = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(c.encode()).digest()).decode()}'" for c in codes)
    policy = (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=policy),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="referrer", content="no-referrer"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            Markup(f"<style>{asset('report.css')}</style>"),
        ]
    )
    notice = element("p", NOTICE, class_="notice", role="note")
    content = element(
        "body",
        element("a", "Skip to the content", href="#content", class_="skip"),
        notice,
        element("main", body, id="content"),
        element("footer", notice, element("p", "Written by medfuse. This page loads nothing from the network.")),
        *(Markup(f"<script>{code}</script>") for code in codes),
    )
    return f'<!DOCTYPE html>\n<html lang="en">{element("head", head)}{content}</html>\n'

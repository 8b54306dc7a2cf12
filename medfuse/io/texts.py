"""What someone else has written: small JSON files, names of regions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

_NAME_LENGTH = 64


def read_json(path: Path, *, max_bytes: int = 1 << 20) -> Any:
    """Read a JSON file in which each name of an object comes once: of two, one would be lost without a word.

    Args:
        path: The file, in UTF-8, with or without a byte-order mark.
        max_bytes: Largest size to accept.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is larger, no JSON, nested too deeply, or a name comes twice. The message tells no content.
    """
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it must have at most {max_bytes} bytes")
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it must not be nested so deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("each name must come once")
    return result


def region_name(text: str) -> str:
    """Return the name of a region as it is shown: its printable signs, apostrophe and & among them, at most 64.

    `<` and `>` become `_`: a name is shown where nobody may have thought of markup.
    """
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    return re.sub("[<>]", "_", shown).strip()[:_NAME_LENGTH].strip()

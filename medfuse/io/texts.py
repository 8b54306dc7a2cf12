"""Small JSON files that someone else has written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


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

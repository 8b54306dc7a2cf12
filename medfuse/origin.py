"""Which settings of the command that runs came from a file of defaults: for its records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_taken: dict[str, Any] = {}


@contextmanager
def taken_from(file: str, values: Mapping[str, Any]) -> Iterator[None]:
    """Let records say, while a command runs, that values came from a file of defaults, by its name."""
    _taken.clear()
    if values:
        _taken["defaults"] = {"file": file, "values": dict(values)}
    try:
        yield
    finally:
        _taken.clear()


def defaults_taken() -> dict[str, Any]:
    """Return what a record says of defaults: `defaults`, with `file` and `values`, or nothing where none was taken."""
    return dict(_taken)

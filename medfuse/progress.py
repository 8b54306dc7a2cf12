"""Progress of a long run: a bar on a terminal, a line for each case where there is none; how many are told."""

from __future__ import annotations

import logging
from typing import Any

LINES = "medfuse.progress"
"""Logger of the lines."""
BAR = f"{LINES}.bar"
"""Logger whose level silences the bar."""
_logger = logging.getLogger(LINES)


def bar(*args: Any, disable: bool = False, **options: Any) -> Any:
    """Return a bar of tqdm, with its arguments: it shows on a terminal only, and not where progress was silenced."""
    from tqdm import tqdm  # not at the start: it asks importlib for its version

    silent = disable or not logging.getLogger(BAR).isEnabledFor(logging.WARNING)
    return tqdm(*args, disable=True if silent else None, **options)


def counted(number: int, noun: str, nouns: str = "") -> str:
    """Return so many of something in words, such as `1 case` or `4,812 cases`.

    Args:
        number: How many.
        noun: What one is called.
        nouns: What several are called, if not by an s.
    """
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def line(number: int, count: int, name: str, state: str, seconds: float | None = None) -> None:
    """Log that one of many is settled.

    Args:
        number: How many are by now.
        count: Of how many.
        name: Of this one.
        state: What became of it.
        seconds: That it took, where known.
    """
    took = "" if seconds is None else f", {seconds:.1f} s"
    _logger.info("%d of %d: %s %s%s", number, count, name, state, took)

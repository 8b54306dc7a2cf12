"""How numbers are written where people read them."""

from __future__ import annotations

import math

_SMALL = -4  # power of ten below which a number has an exponent


def number_text(value: float | None, *, digits: int = 4) -> str:
    """Return a number with so many digits, but never less than its units; a hyphen for None."""
    if value is None:
        return "-"
    size = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{digits - 1}e}" if size < _SMALL else f"{value:.{max(digits - 1 - size, 0)}f}"

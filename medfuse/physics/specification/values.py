"""What the values of a specification must be: how each is read, and told of where it is impossible."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfuse.errors import DegradationError, nearest

AUTO = "auto"  # stands for what is to be estimated
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlist, _REPR.maxdict = 4, 100, 100, 10, 10
_EXPONENT = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")  # what YAML 1.1 leaves a text, such as 1e-3, as it has no dot

# Beyond all images: a slip of the pen must not become a kernel that fills the memory.
_MOST = {"sigma_px": 1e3, "fwhm_mm": 1e3, "length_px": 1e4, "angle_deg": 360.0, "factor": 64, "exponent": 10.0}


@dataclass(frozen=True)
class Context:
    """What is known of a source beside its specification.

    Attributes:
        source: Its name, for errors.
        spacing: Pixel spacing in mm along the spatial axes; None: not known.
        scale: Full range in its own unit; infinity: to be known later; None: not known.
    """

    source: str
    spacing: Sequence[float] | None
    scale: float | None


def take(values: dict[str, Any], name: str, context: Context, **fields: Any) -> dict[str, Any]:
    """Return the fields with their defaults replaced by the given values; `...` marks a required one."""
    unknown = sorted(map(str, set(values) - set(fields)))
    missing = sorted(k for k, default in fields.items() if default is ... and k not in values)
    if unknown or missing:
        remedy = nearest(unknown[0], fields) if unknown else f"add {missing[0]}"
        raise DegradationError(
            f"`{name}` of `{context.source}` must have the values {sorted(fields)}, got "
            f"{short(sorted(map(str, values)))}; unknown: {short(unknown)}, missing: {missing}; {remedy}."
        )
    return {**fields, **values}


def numbers_of(value: Any, name: str, context: Context) -> float | list[float]:
    """Return one number, or a list of numbers, none of them text, a truth value or beyond all images."""
    several = value if isinstance(value, (list, tuple)) else [value]
    try:
        numbers = [float(v) for v in several]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    texts = [v for v in several if isinstance(v, str | bytes) and not (isinstance(v, str) and _EXPONENT.fullmatch(v))]
    if not numbers or texts or any(isinstance(v, bool) for v in several):
        text = ", a text; write it without quotes" if texts else ""
        raise DegradationError(f"`{name}` of `{context.source}` must be a number, got {short(value)}{text}.")
    if max(map(abs, numbers)) > _MOST.get(name, math.inf):
        raise DegradationError(f"`{name}` of `{context.source}` must be at most {_MOST[name]:g}, got {short(value)}.")
    return numbers if isinstance(value, (list, tuple)) else numbers[0]


def number_of(value: Any, name: str, context: Context) -> float:
    """Return one number."""
    number = numbers_of(value, name, context)
    if isinstance(number, list):
        raise DegradationError(f"`{name}` of `{context.source}` must be one number, got {short(value)}.")
    return number


def bounds_of(name: str, key: str, bounds: Any, largest: float, context: Context) -> tuple[float, float]:
    """Return the least and the most that an estimate may be."""
    if not isinstance(bounds, Mapping) or set(bounds) != {key}:
        raise DegradationError(
            f"the bounds of the `{AUTO}` of `{name}` of `{context.source}` must be a mapping {{{key}: [least, most]}}, "
            f"got {short(bounds)}."
        )
    pair = numbers_of(bounds[key], key, context)
    if not isinstance(pair, list) or len(pair) != 2 or not 0 <= pair[0] <= pair[1] <= largest:
        raise DegradationError(
            f"the bounds of `{key}` of `{context.source}` must be [least, most], ascending, from 0 to {largest:g}, got "
            f"{short(bounds[key])}."
        )
    return pair[0], pair[1]


def one_of(names: Sequence[str]) -> str:
    """Return names as a list in words."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def short(value: Any) -> str:
    """Return a value as text, cut where it is long."""
    return _REPR.repr(value)

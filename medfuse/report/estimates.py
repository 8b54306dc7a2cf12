"""What was estimated of a degradation, in words, from its record alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medfuse.report.native import std_text
from medfuse.report.numbers import number_text

_NAMES = {"psf": "PSF", "slices": "blur across slices"}
COLUMNS = ("Step", "Estimate", "90 % interval", "Stated", "Rests on, or why not stated")

CHANGES = (
    "Source",
    "What is wrong",
    "Change, root mean square",
    "Change of the mean",
    "Largest change (1 in 1000)",
)


def sensitivity_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """Return what changes of each source where what was stated is wrong, a row for each of less and more of a kind.

    Args:
        record: Of a case, whose `sources` hold `sensitivity`, see `medfuse.inferers.sensitivity`.
    """
    rows = []
    for name, source in (record.get("sources") or {}).items():
        for kind, ways in (source.get("sensitivity") or {}).items():
            for way, changed in ways.items():
                cells = [number_text(changed[key]) for key in ("rms", "mean", "largest")]
                rows.append([f"{name.upper()} [{source.get('unit', '')}]", f"{kind} 20 % {way}", *cells])
    return rows


def estimate_cells(estimate: Mapping[str, Any]) -> list[str]:
    """Return what was found of one step, a cell for each of `COLUMNS`.

    Args:
        estimate: Its record, see `medfuse.estimation.Estimate`.
    """
    step, value, interval = str(estimate.get("step", "")), estimate.get("value"), estimate.get("interval")
    found = "-" if value is None else _quantity(estimate, value)
    between = "-" if not interval else " to ".join(_number(estimate, end) for end in interval)
    stated = estimate.get("stated") or {}
    told = next((_quantity(estimate, v) for k, v in stated.items() if k != "kind"), "nothing")
    reasons = [str(v) for v in (estimate.get("refused"), estimate.get("rests_on")) if v]
    return [_NAMES.get(step, step), found, between, told, "; ".join(reasons) or "-"]


def estimate_sentence(name: str, estimate: Mapping[str, Any]) -> str:
    """Return what was found of one step of a source as a sentence."""
    step, found, between, told, why = estimate_cells(estimate)
    what = f"The {step} of the {name}"
    if found == "-":
        return f"{what} could not be estimated and was taken as none: {why}."
    if told == "nothing":
        return f"{what} was estimated as {found} ({between}) and taken as none: {why}."
    within = "" if between == "-" else f" ({between})"
    return f"{what} was estimated as {found}{within}; {told} was stated. It rests on {why}."


def _quantity(estimate: Mapping[str, Any], value: Any) -> str:
    if estimate.get("step") == "slices":
        return f"{value:.3g} mm (FWHM)"
    if estimate.get("step") == "psf":
        return f"{_number(estimate, value)} mm (FWHM of the whole PSF along the axes of its grid)"
    if estimate.get("kind") == "table":
        return f"{std_text(estimate['stated'])}, in the unit of the input (table)"
    if (estimate.get("stated") or {}).get("unit") == "input":
        at = " at a signal of 1" if estimate.get("kind") == "poisson" else ""
        return f"{value:.3g} in the unit of the input{at} ({estimate.get('kind')})"
    if estimate.get("step") == "blur":
        return f"{_number(estimate, value)} px (std of the whole PSF)"
    kind = str(estimate.get("kind") or "gaussian")
    if kind == "poisson":
        return f"{_number(estimate, value)} counts at full range (Poisson)"
    return f"{_number(estimate, value)} of full range ({255 * value:.1f} of 255, {kind.capitalize()})"


def _number(estimate: Mapping[str, Any], value: Any) -> str:
    if estimate.get("step") == "psf":
        return " x ".join(f"{v:.1f}" for v in value)
    return f"{value:.2f}" if estimate.get("step") == "blur" else f"{value:.3g}"

"""What was estimated of a degradation, in words, from its record alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("Step", "Estimate", "90 % interval", "Stated", "Rests on, or why not stated")


def estimate_cells(estimate: Mapping[str, Any]) -> list[str]:
    """Return what was found of one step, a cell for each of `COLUMNS`.

    Args:
        estimate: Its record, see `medfuse.estimation.Estimate`.
    """
    step, value, interval = str(estimate.get("step", "")), estimate.get("value"), estimate.get("interval")
    found = "-" if value is None else _quantity(estimate, value)
    between = "-" if not interval else f"{_number(estimate, interval[0])} to {_number(estimate, interval[1])}"
    stated = estimate.get("stated") or {}
    told = next((_quantity(estimate, v) for k, v in stated.items() if k != "kind"), "nothing")
    reasons = [str(v) for v in (estimate.get("refused"), estimate.get("rests_on")) if v]
    return [step, found, between, told, "; ".join(reasons) or "-"]


def estimate_sentence(name: str, estimate: Mapping[str, Any]) -> str:
    """Return what was found of one step of a source as a sentence."""
    step, found, between, told, why = estimate_cells(estimate)
    what = f"The {step} of the {name}"
    if found == "-":
        return f"{what} could not be estimated and was taken as none: {why}."
    if told == "nothing":
        return f"{what} was estimated as {found} ({between}) and taken as none: {why}."
    return f"{what} was estimated as {found} ({between}); {told} was stated. It rests on {why}."


def _quantity(estimate: Mapping[str, Any], value: float) -> str:
    if estimate.get("step") == "blur":
        return f"{_number(estimate, value)} px (std of the whole PSF)"
    kind = str(estimate.get("kind") or "gaussian")
    if kind == "poisson":
        return f"{_number(estimate, value)} counts at full range (Poisson)"
    return f"{_number(estimate, value)} of full range ({255 * value:.1f} of 255, {kind.capitalize()})"


def _number(estimate: Mapping[str, Any], value: float) -> str:
    return f"{value:.2f}" if estimate.get("step") == "blur" else f"{value:.3g}"

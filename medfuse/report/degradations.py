"""What a record says of the degradations of its sources, in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def restored_sources(record: Mapping[str, Any]) -> list[str]:
    """Return the names of the sources of which a degradation was stated."""
    degradation = record.get("degradation") or {}
    return [name for k, name in enumerate(record.get("sources") or {}, 1) if degradation.get(f"source{k}")]


def noisy(degradation: Mapping[str, Any], source: int) -> bool:
    """Return whether noise is among the steps of a source, 1 or 2."""
    return any("noise" in step for step in degradation.get(f"source{source}") or ())


def whence(degradation: Mapping[str, Any], source: int, *steps: str) -> str:
    """Return how one of the steps of a source is known: `measured` in its images, or `stated`.

    Args:
        degradation: That of a record.
        source: 1 or 2.
        steps: Names of an estimate's step, see `medfuse.estimation.Estimate`.
    """
    rows = (degradation.get("estimates") or {}).get(f"source{source}") or ()
    found = any(row.get("step") in steps and row.get("stated") is not None for row in rows)
    return "measured" if found else "stated"


def degradation_name(degradation: Mapping[str, Any]) -> str:
    """Return what a record's degradation is called on pages and pictures, and whence it is known."""
    parts, estimates = ("source1", "source2"), degradation.get("estimates") or {}
    found = sum(row.get("stated") is not None for part in parts for row in estimates.get(part) or ())
    steps = sum(_steps(degradation.get(part) or ()) for part in parts)
    if not steps:
        return "none found" if estimates else "none stated"
    if not found:
        return f"{degradation.get('name', 'as specified')} (given)"
    return "estimated from the images" if found == steps else "in part given, in part estimated from the images"


def _steps(said: Any) -> int:
    """Return how many steps a source was said to have gone through; of one on its own grid, PSF and noise."""
    return len({"psf", "noise"} & set(said)) if isinstance(said, Mapping) else len(said)

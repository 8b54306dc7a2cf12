"""Two time points of one person: what changed in each region, and whether by more than the interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from medfuse.errors import ImageError
from medfuse.regions.table import WHOLE

LEVEL = 0.95
_NORMAL = 1.959963984540054  # half of the interval of that level, in standard deviations
_STATES = ("given", "restored")


def compare_regions(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare the regions of source 2 of two records: of one person, with the same labels, in one unit.

    The difference is the second less the first. Its standard deviation is that of two errors that know nothing of each
    other, `(s1^2 + s2^2)^(1/2)`: an error that both time points share, such as a wrong point spread function, cancels
    in part, and the interval is then too wide. It holds the error of the restoration, not that of the person: repeated
    scans of one person differ by more.

    Args:
        first: Record of the earlier case, as its JSON holds it.
        second: That of the later one.

    Returns:
        For the whole image, where it is of one volume in both (within 1 %), and each label that both have: `label`,
        `name`, and of `given` and `restored` each `first`, `second`, `difference` and `percent`; of the restored, where
        both cases have an interval, `sd`, `low` and `high` of the difference at 95 %, and `changed`, whether 0 lies
        outside. `volume_ml` of both; `suvr` of the restored likewise, where both are ratios to one reference region.

    Raises:
        ImageError: The records have no values, other sources, units or formulas of the SUV, or no label in common, or
            name one differently.
    """
    one, two = (_measured(record) for record in (first, second))
    if one[:2] != two[:2]:
        raise ImageError(
            f"Both cases must have one source and unit, got {' in '.join(one[:2])} and {' in '.join(two[:2])}; fuse "
            "them alike."
        )
    kinds = [_kind(record, one[0]) for record in (first, second)]
    if None not in kinds and kinds[0] != kinds[1]:
        raise ImageError(
            f"The SUV of both cases must be of one formula, got {kinds[0]} and {kinds[1]}; fuse them with one --suv."
        )
    earlier, later = ({region["label"]: region for region in regions} for *_, regions in (one, two))
    if len(earlier) > 1 and len(later) > 1 and len(set(earlier) & set(later)) < 2:
        raise ImageError("Both cases must share a label, got none; give both the same atlas or labels.")
    found = []
    one_reference = first.get("reference_region") == second.get("reference_region")
    for label in (label for label in earlier if label in later):
        a, b = earlier[label], later[label]
        if label is None and len(earlier) > 1 and not _alike(a.get("volume_ml"), b.get("volume_ml")):
            continue  # the mean over another field of view is no change of the person
        if a.get("name") != b.get("name") and a.get("name") and b.get("name"):
            raise ImageError(
                f"Label {label} must be one region in both cases, got two names; give both the same labels."
            )
        row: dict[str, Any] = {"label": label, "name": b.get("name") or a.get("name")}
        row |= {state: _difference(a[state]["mean"], b[state]["mean"]) for state in _STATES}
        row["volume_ml"] = {"first": a.get("volume_ml"), "second": b.get("volume_ml")}
        ratios = [region["restored"].get("suvr") for region in (a, b)]
        row["suvr"] = _difference(*ratios) if one_reference and None not in ratios else None
        deviations = [region.get("interval", {}).get("sd") for region in (a, b)]
        if None not in deviations:
            restored = row["restored"]
            sd = math.hypot(*deviations)
            low, high = (restored["difference"] + sign * _NORMAL * sd for sign in (-1, 1))
            restored |= {"sd": sd, "low": low, "high": high, "changed": not low <= 0 <= high}
        found.append(row)
    return found


COLUMNS = (
    "index", "name", "volume_first", "volume_second", "given_first", "given_second", "given_difference",
    "restored_first", "restored_second",
    "restored_difference", "restored_percent", "difference_sd", "difference_low", "difference_high", "changed",
    "suvr_first", "suvr_second", "suvr_difference",
)  # fmt: skip
"""Of the table of a comparison."""


def change_row(region: Mapping[str, Any]) -> list[Any]:
    """Return a row of `COLUMNS`; None for what is missing."""
    given, restored, ratio = region["given"], region["restored"], region["suvr"] or {}
    interval = [restored.get(key) for key in ("sd", "low", "high", "changed")]
    return [
        region["label"], region["name"] or (WHOLE if region["label"] is None else None),
        *(region["volume_ml"][key] for key in ("first", "second")),
        *(given[key] for key in ("first", "second", "difference")),
        *(restored[key] for key in ("first", "second", "difference", "percent")), *interval,
        *(ratio.get(key) for key in ("first", "second", "difference")),
    ]  # fmt: skip


def change_sentence(region: Mapping[str, Any], title: str, unit: str) -> str:
    """Return what changed in a region, in a sentence."""
    label = region["label"]
    name = WHOLE if label is None else region["name"] or f"label {label}"
    restored = region["restored"]
    first, second, difference = (f"{restored[key]:.4g}" for key in ("first", "second", "difference"))
    percent = "" if restored["percent"] is None else f" ({restored['percent']:+.1f} %)"
    sentence = (
        f"{name}: the mean of the restored {title} went from {first} to {second} {unit}, by {difference}{percent}"
    )
    if label is None:
        return f"{sentence}; how sure that is is computed of regions alone."
    if "sd" not in restored:
        return f"{sentence}; how sure that is was not computed: fuse both with --uncertainty full."
    verdict = "more than its error explains" if restored["changed"] else "which its error alone can explain"
    return f"{sentence}, {verdict} (95 % interval {restored['low']:.4g} to {restored['high']:.4g})."


def _measured(record: Mapping[str, Any]) -> tuple[str, str, list[dict[str, Any]]]:
    """Return name and unit of source 2 of a record, and its regions."""
    try:
        name = list(record["sources"])[1]
        source = record["sources"][name]
        return (
            name,
            str(source["unit"]),
            [region for region in source["regions"] if region["given"]["mean"] is not None],
        )
    except (KeyError, IndexError, TypeError) as error:
        raise ImageError(
            "A case must have values of regions, got a record without; fuse it with this version."
        ) from error


def _kind(record: Mapping[str, Any], name: str) -> str | None:
    """Return by what formula the SUV of a source was made; None where it is unknown."""
    kind = (record["sources"][name].get("suv") or {}).get("kind")
    return None if kind in (None, "none") else str(kind)


def _alike(first: float | None, second: float | None) -> bool:
    """Tell whether two volumes are equal within 1 %; unknown ones count as equal."""
    return first is None or second is None or math.isclose(first, second, rel_tol=0.01)


def _difference(first: float, second: float) -> dict[str, float | None]:
    difference = second - first
    return {
        "first": first,
        "second": second,
        "difference": difference,
        "percent": 100.0 * difference / abs(first) if first else None,
    }

"""`--dry-run`: what a command would do, with sizes, and nothing of it done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medfuse.cohort.plan import home_of, sizes_of
from medfuse.cohort.sizes import expected_memory, expected_seconds
from medfuse.console import tell
from medfuse.progress import counted
from medfuse.psf import is_native

_STEPS = 1  # where the command names none


def say_plan(
    layout: str,
    cases: Sequence[Mapping[str, Any]],
    out: Path,
    keys: Sequence[str],
    steps: int | None,
    shard: tuple[int, int] = (1, 1),
    *,
    spec: Mapping[str, Any] | None = None,
) -> int:
    """Print a line for each case that would be fused, and one for all, and return the exit code.

    Args:
        layout: What the input is, see `medfuse.io.Discovery`.
        cases: Items of a `datalist`, some with a "problem".
        out: Folder for the results.
        keys: Of the sources.
        steps: Number of reverse steps; None: the bundle's.
        shard: I and N: only each N-th case from the I-th on, by sorted ids.
        spec: Degradation; where the restoration on the scanner's own grid may come of it, that counts.
    """
    number, count, native = *shard, is_native(spec, keys)
    rows = [
        _row(item, home_of(layout, out, str(item["case"])), keys, steps or _STEPS, native=native)
        for item in sorted(cases, key=lambda i: str(i["case"]))
    ]
    rows = rows[number - 1 :: count]
    for row in rows:
        if "problem" in row:
            print(f"{row['case']}: cannot be fused: {row['problem']}")
        else:
            sizes = ", ".join(f"{key} {size:.3g} million voxels" for key, size in row["megavoxels"].items())
            there = ", results are there" if row["has_results"] else ""
            print(f"{row['case']}: {sizes}; about {row['seconds']:.0f} s, {row['memory_mib']} MiB{there}")
    bad = sum("problem" in row for row in rows)
    seconds = sum(row.get("seconds", 0.0) for row in rows)
    what = f"{counted(len(rows) - bad, 'case')} would be fused into {out.resolve()}, {bad} cannot be"
    print(f"{what}; about {seconds:.0f} s on a core")
    tell(dry_run=True, cases=rows, seconds=seconds)
    return int(bad > 0)


def say_pairs(source1: Path | None, source2: Path | None, manifest: Path | None) -> int:
    """Print a line for each pair of images that would be fused, and return the exit code."""
    from medfuse.pipeline.pairs import matched_pairs

    rows: list[dict[str, Any]] = [
        {"name": name, "bytes": [path.stat().st_size if path.is_file() else 0 for path in paths]}
        for name, *paths in matched_pairs(source1, source2, manifest)
    ]
    for row in rows:
        print(f"{row['name']}: {' and '.join(f'{size / 1e6:.3g}' for size in row['bytes'])} MB")
    print(f"{counted(len(rows), 'pair')} would be fused; the images themselves were not read")
    tell(dry_run=True, pairs=rows)
    return 0


def _row(item: Mapping[str, Any], home: Path, keys: Sequence[str], steps: int, *, native: bool) -> dict[str, Any]:
    case = str(item["case"])
    if "problem" in item:
        return {"case": case, "problem": str(item["problem"])}
    sizes = dict(zip(keys, sizes_of(item, keys), strict=True))
    return {
        "case": case,
        "megavoxels": sizes,
        "seconds": expected_seconds(max(sizes.values()), steps, native=sum(sizes.values()) if native else 0.0),
        "memory_mib": expected_memory(sizes.values()),
        "has_results": any((home / f"{case}{suffix}.json").is_file() for suffix in ("", "_done")),
    }

"""What became of a plan: what is done, what failed and why, what is missing, and how long that will take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from medfuse.cohort.plan import Plan, PlannedCase, taken_seconds, total
from medfuse.progress import counted

ALL_DONE, SOME_FAILED, SOME_MISSING = 0, 1, 3
"""Exit codes of `medfuse status`; 2 is a wrong call."""


@dataclass(frozen=True)
class PackStatus:
    """What became of a pack.

    Attributes:
        number: Of the pack, from 1.
        done: Ids of the cases that are done.
        failed: Why others failed, the first line of it, by id.
        missing: Ids of those of which there is no record yet.
        seconds_left: Expected time for what is missing.
    """

    number: int
    done: tuple[str, ...]
    failed: dict[str, str]
    missing: tuple[str, ...]
    seconds_left: float


@dataclass(frozen=True)
class Status:
    """What became of a plan, pack by pack."""

    packs: tuple[PackStatus, ...]

    @property
    def done(self) -> int:
        """Number of cases that are done."""
        return sum(len(pack.done) for pack in self.packs)

    @property
    def failed(self) -> dict[str, str]:
        """Why cases failed, by id."""
        return dict(sorted((case, why) for pack in self.packs for case, why in pack.failed.items()))

    @property
    def missing(self) -> int:
        """Number of cases of which there is no record."""
        return sum(len(pack.missing) for pack in self.packs)

    @property
    def exit_code(self) -> int:
        """`ALL_DONE`, `SOME_FAILED` of cases that all have a record, or `SOME_MISSING`."""
        return SOME_MISSING if self.missing else SOME_FAILED if self.failed else ALL_DONE

    @property
    def cases(self) -> int:
        """Number of cases of the plan."""
        return self.done + len(self.failed) + self.missing

    def lines(self) -> Iterator[str]:
        """Give the status in words."""
        what = f"{self.done:,} done, {len(self.failed):,} failed, {self.missing:,} missing"
        yield f"{counted(self.cases, 'case')}: {what}"
        for case, why in self.failed.items():
            yield f"{case} failed: {why}"
        open_ = [pack for pack in self.packs if pack.missing]
        for pack in open_:
            yield f"part {pack.number} of {len(self.packs)}; {len(pack.missing):,} missing"
        if open_:
            left = [pack.seconds_left for pack in open_]
            longest, parts = total([max(left)]), counted(len(open_), "part")
            yield f"left: about {total(left)} for one process, {longest} with one for each of {parts}"

    def record(self) -> dict[str, Any]:
        """Return the status for JSON."""
        return {
            "cases": self.cases,
            "done": self.done,
            "failed": self.failed,
            "missing": sorted(case for pack in self.packs for case in pack.missing),
            "packs": [
                {
                    "pack": pack.number,
                    "done": len(pack.done),
                    "failed": len(pack.failed),
                    "missing": len(pack.missing),
                    "seconds_left": round(pack.seconds_left, 1),
                }
                for pack in self.packs
            ],
            "seconds_left": round(sum(pack.seconds_left for pack in self.packs), 1),
        }


def status(plan: Plan, out: str | Path) -> Status:
    """Look up what became of each case of a plan.

    The time that is left is what the plan expects of the cases that are missing, times what those that are done took
    of what was expected of them (median). No clock is read.

    Args:
        plan: The plan.
        out: Folder for the results.
    """
    done: dict[str, float] = {}
    failed: dict[str, str] = {}
    for case in plan.cases:
        home = plan.home(out, case.case)
        if (why := _failure(home, case.case)) is not None:
            failed[case.case] = why
        elif (seconds := taken_seconds(home, case.case)) is not None:
            done[case.case] = seconds
    ratios = [done[c.case] / c.seconds for c in plan.cases if c.case in done and c.seconds]
    scale = median(ratios) if ratios else 1.0
    packs: dict[int, list[PlannedCase]] = {number: [] for number in range(1, plan.packs + 1)}
    for case in plan.cases:
        packs[case.pack].append(case)
    return Status(tuple(_pack(number, cases, done, failed, scale) for number, cases in packs.items()))


def _pack(
    number: int, cases: list[PlannedCase], done: dict[str, float], failed: dict[str, str], scale: float
) -> PackStatus:
    missing = [case for case in cases if case.case not in done and case.case not in failed]
    return PackStatus(
        number,
        tuple(case.case for case in cases if case.case in done),
        {case.case: failed[case.case] for case in cases if case.case in failed},
        tuple(case.case for case in missing),
        scale * sum(case.seconds for case in missing),
    )


def _failure(home: Path, case: str) -> str | None:
    """Return the first line of why a case failed; None where there is no record of it."""
    path = home / f"{case}_failed.json"
    if not path.is_file():
        return None
    try:
        lines = str(json.loads(path.read_text(encoding="utf-8")).get("message", "")).splitlines()
    except (OSError, ValueError, AttributeError):
        lines = ["its record must be readable JSON; run it again."]
    return lines[0] if lines else ""

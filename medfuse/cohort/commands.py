"""The commands `plan` and `slurm`, the level `group` of `batch`, and what is missing of a plan."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medfuse.about import NOTICE
from medfuse.arguments import integer, positive
from medfuse.bundles import DEFAULT_BUNDLE, case_keys
from medfuse.cohort.plan import TABLE, has_plan, make_plan, read_plan, total, write_plan
from medfuse.cohort.slurm import slurm_script
from medfuse.cohort.status import status
from medfuse.console import tell
from medfuse.errors import BundleError
from medfuse.io.atomic import require_writable
from medfuse.io.places import require_apart
from medfuse.progress import counted

if TYPE_CHECKING:
    from medfuse.io import Discovery


_CHOOSING = ("shard", "participant_label", "session_label", "trc_label", "rec_label", "run_label", "bids_filter_file")
_COUNT, _MINUTES = integer(1, 1_000_000), positive(1e6, "minutes")


def add_cohort(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    *,
    parse: Callable[[Sequence[str]], argparse.Namespace],
    check: Callable[[argparse.Namespace], None],
    add_input: Callable[[argparse.ArgumentParser], None],
    find: Callable[[argparse.Namespace], Discovery],
) -> None:
    """Add the commands.

    Args:
        commands: Of the command line.
        parse: Parses other words of the command line, or ends the program.
        check: Checks what was parsed, before any work.
        add_input: Adds the options that choose cases of an input.
        find: Lists the cases of an input by these.
    """
    plan = commands.add_parser(
        "plan", help="list the cases of a batch once, in packs of equal work", description=NOTICE
    )
    plan.add_argument("input", type=Path, help="as of batch: BIDS dataset, manifest, case folders, or DICOM studies")
    plan.add_argument("out", type=Path, help="folder for the results; the plan goes there")
    add_input(plan)
    size = plan.add_mutually_exclusive_group()
    size.add_argument("--packs", type=_COUNT, help="number of packs (default: as many as take --minutes each)")
    size.add_argument(
        "--minutes",
        type=_MINUTES,
        default=30.0,
        help="expected time of a pack on one core (default: 30)",
    )
    plan.add_argument("--steps", type=_COUNT, default=1, help="reverse steps that the batch will take (default: 1)")
    plan.add_argument("--bundle", default=DEFAULT_BUNDLE, help=f"bundle (default: {DEFAULT_BUNDLE})")
    plan.set_defaults(run=_plan, find=find)

    slurm = commands.add_parser(
        "slurm",
        help="print an array script for Slurm: a task for each pack of the plan in OUT",
        description=f"Options of batch follow after --, such as: medfuse slurm IN OUT -- --degradation noise. {NOTICE}",
    )
    slurm.add_argument("input", type=Path, help="as of plan")
    slurm.add_argument("out", type=Path, help="folder for the results, with the plan")
    slurm.add_argument("--threads", type=_COUNT, default=2, help="cores of a task (default: 2)")
    slurm.add_argument("--at-once", type=_COUNT, help="most tasks at a time (default: as many as Slurm lets)")
    slurm.add_argument("--image", type=Path, help="Apptainer image to run on the nodes (default: this installation)")
    slurm.set_defaults(run=_slurm, parse=parse, check=check, passed=[])


def split_passed(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of a call, and those that `slurm` passes on to `batch`, behind `--`."""
    if "slurm" not in words[:1] or "--" not in words:
        return list(words), []
    place = list(words).index("--")
    return list(words[:place]), list(words[place + 1 :])


def _plan(options: argparse.Namespace) -> int:
    require_writable(options.out)
    keys, found = case_keys(options.bundle), options.find(options)
    amount = {"packs": options.packs, "minutes": options.minutes, "steps": options.steps}
    plan = make_plan(found, options.input, options.out, sources=keys, **amount)
    homes = {case.case: plan.home(options.out, case.case) for case in plan.cases}
    require_apart(found.cases, options.out, lambda case: homes[case])
    write_plan(plan, options.out)
    problems = [case for case in plan.cases if "problem" in case.item]
    print(f"{plan.layout}: {counted(len(plan.cases), 'case')}, {len(problems):,} of which cannot be fused")
    packs = [sum(case.seconds for case in plan.pack(number)) for number in range(1, min(plan.packs, 1000) + 1)]
    print(
        f"{counted(plan.packs, 'pack')} of about {total([min(packs)])} to {total([max(packs)])}, "
        f"{total([plan.seconds])} in all on one core, {plan.memory_mib:,} MiB of memory; see {TABLE}"
    )
    print(NOTICE)
    return 0


def _slurm(options: argparse.Namespace) -> int:
    plan = read_plan(options.out)
    words = ["batch", str(options.input), str(options.out), "participant", *options.passed]
    parsed = options.parse(words)
    if any(getattr(parsed, name) for name in _CHOOSING):
        raise BundleError("Options must be of fusing, got some that choose cases; the plan does: leave them out.")
    if options.image is None:  # what a container holds is not seen from here
        options.check(parsed)
    script = shutil.which("medfuse", path=str(Path(sys.executable).parent))
    command = [script] if script else [sys.executable, "-m", "medfuse"]
    how = {"threads": options.threads, "at_once": options.at_once, "image": options.image}
    print(slurm_script(plan, options.input, options.out, command=command, options=options.passed, **how), end="")
    return 0


def say_group(out: Path) -> int:
    """Merge the tables and the page of a folder for results, say what is in them, and return the exit code."""
    from medfuse.pipeline import collect

    rows = collect(out)
    failed = sum(row["state"] == "failed" for row in rows)
    warned = sum(bool(row.get("warnings")) for row in rows)
    tell(cases=rows)
    done = f"{len(rows) - failed} done, {failed} failed, {warned} with warnings"
    print(f"{counted(len(rows), 'case')}: {done}; see cases.tsv")
    if missing := missing_line(out):
        print(missing)
    return 0


def missing_line(out: Path) -> str:
    """Return how much of a plan is missing in a folder for results; empty without a plan, or where nothing is."""
    found = status(read_plan(out), out) if has_plan(out) else None
    if found is None or not found.missing:
        return ""
    are = "is" if found.missing == 1 else "are"
    return f"{found.missing:,} of {counted(found.cases, 'case')} {are} missing; see `medfuse status`"

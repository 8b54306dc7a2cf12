"""The command `status`: what became of a plan, or of the queue of a service, in the same form."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from medfuse.about import NOTICE
from medfuse.cohort.plan import read_plan
from medfuse.cohort.status import Status, status
from medfuse.listen.queue import is_queue
from medfuse.listen.status import QueueStatus, queue_status


def add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    told = commands.add_parser(
        "status",
        help="say which cases of a plan, or studies of a queue, are done, failed and missing",
        description=f"Exit code: 0 all are done, 1 some failed, 3 some are missing, or wait, 2 a wrong call. {NOTICE}",
    )
    told.add_argument("out", type=Path, help="folder for the results, or queue of `medfuse listen`")
    told.add_argument("--json", action="store_true", help="print JSON")
    told.set_defaults(run=_status)


def _status(options: argparse.Namespace) -> int:
    found: Status | QueueStatus
    found = queue_status(options.out) if is_queue(options.out) else status(read_plan(options.out), options.out)
    if options.json:
        print(json.dumps({"notice": NOTICE, **found.record()}, indent=2))
    else:
        for line in found.lines():
            print(line)
    return found.exit_code

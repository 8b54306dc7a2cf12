"""A process beside this one, begun before its answer is asked for: lines of text, of which it prints one after another.

It loads nothing that what begins it has not asked for, so that it is begun in no time.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_begun: list[subprocess.Popen[str]] = []


def begin(module: str, words: Sequence[str]) -> None:
    """Start `python -m MODULE WORDS`, and go on; what was begun before is given up. It tells nobody of its errors."""
    give_up()
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)  # what is found here is found there
    command, environment = [sys.executable, "-P", "-m", module, *words], os.environ | {"PYTHONPATH": path}
    nowhere, told = subprocess.DEVNULL, subprocess.PIPE
    _begun.append(subprocess.Popen(command, env=environment, text=True, stdin=nowhere, stdout=told, stderr=nowhere))


def next_line() -> str:
    """Return the next line of what was begun, as soon as there is one; empty where there is nothing, or no more."""
    out = _begun[0].stdout if _begun else None
    line = "" if out is None else out.readline()
    return line.removesuffix("\n") if line.endswith("\n") else ""  # else it died in the middle of one


def say(line: str) -> None:
    """Give a line to the process that has begun this one."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@atexit.register
def give_up() -> None:
    """End what was begun."""
    while _begun:
        with _begun.pop() as process:
            process.kill()

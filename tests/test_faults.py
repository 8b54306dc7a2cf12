"""What batches come through, in small: each fault of `make faults` is made for real and prints its figure."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent / "faults"


def printed(*words: str) -> dict[str, str]:
    """Run faults in a process of their own, and return what each says."""
    call = [sys.executable, str(FAULTS), *words]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def test_a_clock_set_back_and_an_input_replaced_while_it_is_read():
    said = printed("clock", "replaced", "--volumes")
    assert "the same bytes" in said["clock"]
    assert said["replaced"].startswith("an input replaced at 4 points: refused each time")


@pytest.mark.full
def test_kills_two_batches_at_once_and_a_full_disk_with_pictures_and_reports():
    said = printed("kills", "table_kills", "doubled", "full", "--kills", "10")
    assert re.match(r"10 kills of \d+ batches: nothing lost, nothing half-written, the same bytes", said["kills"])
    assert said["table_kills"].startswith("10 kills while tables and pages were made: each was whole")
    assert said["doubled"].startswith("1 times two batches on one OUT: each case whole, the same bytes")
    assert said["full"].startswith("disk full: not tried") or re.match(r"a disk full at \d{2,} points", said["full"])


@pytest.mark.full
def test_a_tiny_case_costs_little_and_many_take_no_more_memory():
    said = printed("tiny", "index", "many", "--cases", "60")
    assert re.search(r"(0\.0|0\.1)\d+ beside what it computes", said["tiny"])  # below 0.2 s, or the fault fails
    assert said["index"].startswith("120 cases listed and planned in ")
    early, late = (int(mib) for mib in re.search(r"(\d+) MiB, then (\d+);", said["many"]).groups())
    assert late < 1.05 * early + 20

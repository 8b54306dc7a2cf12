"""The corpus of malformed inputs as a test: each must be refused or harmless."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.full
def test_no_malformed_input_succeeds_in_silence_or_ends_in_a_traceback():
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "malformed")], capture_output=True, text=True, check=False
    )
    *_, last = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    count, _, verdict = last.partition(" malformed inputs: ")
    assert int(count) >= 200
    assert verdict == "0 silent successes, 0 unexplained tracebacks"

"""A cohort on a real Slurm of one node: killed, lost, drained and resumed, it gives the bytes of one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_cases import results, same_bytes, table, truncate, write_pair

HERE = Path(__file__).parent / "slurm"
SPACES = ("unshare", "--net", "--uts", "--mount", "--fork", "--pid", "--mount-proc")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path that every user may pass: sockets and munge want one."""
    needed = ("slurmctld", "slurmd", "sbatch", "munged", "runuser", "ip")
    if absent := [name for name in needed if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]:
        pytest.skip(f"no Slurm here ({', '.join(absent)} not found); install slurmd, slurmctld, munge and iproute2")
    if subprocess.run([*SPACES, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody have a network of their own (unshare); run it as root")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.full
def test_a_cohort_on_slurm_gives_the_bytes_of_one_process(place, tmp_path):
    data, out = place / "data", place / "out"
    for seed in range(8):
        write_pair(data / f"case{seed}", seed=seed, shape=(32, 32, 6))
    truncate(data / "case3" / "pet.nii.gz")
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    scenario = [sys.executable, HERE / "scenario.py", data, out]
    ran = subprocess.run(
        [*SPACES, HERE / "node.sh", place / "slurm", "2", *scenario],
        cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=1500,
    )  # fmt: skip
    logs = "".join(path.read_text()[-2000:] for path in place.glob("*.log"))
    assert ran.returncode == 0, f"{ran.stderr[-3000:]}{logs}"
    seen = json.loads(ran.stdout.splitlines()[-1])
    assert seen["planned"] == 0
    assert seen["status while it runs"] == 3  # some are missing
    assert seen["restarts"] >= 2, seen  # one by hand, and those on the node that was lost
    status = seen["status"]
    assert (status["exit"], status["done"], status["missing"]) == (1, 7, [])
    assert list(status["failed"]) == ["case3"]
    assert seen["left over"] == [".medfuse"]
    assert seen["exit of the array with a bad case"] == 1
    assert seen["fused again, done before"] == [0, 7]
    assert "8 cases: 7 done, 1 failed" in seen["group"]
    words = [
        "batch",
        data,
        tmp_path / "whole",
        "participant",
        "--degradation",
        "noise",
        "--steps",
        "1",
        "--device",
        "cpu",
    ]
    subprocess.run(
        [sys.executable, "-m", "medfuse", *map(str, words)], env=environment, capture_output=True, check=False
    )
    same_bytes(results(out), results(tmp_path / "whole"))
    assert [(r["case"], r["state"]) for r in table(out)] == [(r["case"], r["state"]) for r in table(tmp_path / "whole")]

"""What happens to a cohort on a cluster: a task killed and queued again, a node lost, a node drained, all of it again.

Called within `node.sh` with the folder of the cases and that of the results; prints what was seen, as JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

DATA, OUT = Path(sys.argv[1]), Path(sys.argv[2])
OPTIONS = ("--degradation", "noise", "--steps", "1", "--device", "cpu")


def call(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=check)


def medfuse(*words: object) -> subprocess.CompletedProcess[str]:
    return call(sys.executable, "-m", "medfuse", *words, check=False)


def wait_for(what: str, seen: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: {call('squeue').stdout}{call('sinfo').stdout}")
        time.sleep(0.1)


def tasks(state: str) -> list[str]:
    return call("squeue", "--noheader", "--array", f"--states={state}", "--format=%i").stdout.split()


def node() -> str:
    return call("sinfo", "--noheader", "--format=%t").stdout.strip()


def resumed() -> bool:
    """Take the node back, which Slurm refuses while it still ends its jobs."""
    call("scontrol", "update", "nodename=localhost", "state=resume", check=False)
    return node() in ("idle", "mix", "alloc")


def begun() -> list[Path]:
    """Cases that are being written."""
    return list(OUT.glob(".tmp-*"))


def restarts(job: str) -> int:
    shown = call("scontrol", "show", "job", job).stdout
    return sum(int(word.removeprefix("Restarts=")) for word in shown.split() if word.startswith("Restarts="))


def main() -> None:
    seen: dict[str, object] = {"planned": medfuse("plan", DATA, OUT, "--packs", 4).returncode}
    made = medfuse("slurm", DATA, OUT, "--threads", 1, "--", *OPTIONS)
    script = OUT.with_name("job.sh")
    script.write_text(made.stdout)
    start = time.monotonic()
    job = call("sbatch", "--parsable", script).stdout.strip()

    wait_for("a case is being written", lambda: bool(begun()))
    killed = tasks("RUNNING")[0]
    call("scontrol", "requeue", killed)  # as an administrator, or a job of more worth, does: SIGTERM, then SIGKILL
    # Slurm holds or forgets a task whose node is lost before it was queued again
    wait_for("the task is queued again", lambda: not tasks("COMPLETING") and killed in tasks("PENDING,RUNNING"))
    seen["status while it runs"] = medfuse("status", OUT).returncode

    wait_for("another case is being written", lambda: bool(begun()))
    call("scontrol", "update", "nodename=localhost", "state=down", "reason=lost")
    wait_for("the node is lost", lambda: not tasks("RUNNING"))
    seen["cut off"] = len(begun())
    wait_for("the node is back", resumed)

    wait_for("the tasks run again", lambda: bool(tasks("RUNNING")))
    call("scontrol", "update", "nodename=localhost", "state=drain", "reason=maintenance")
    wait_for("the node is drained", lambda: node() == "drain")
    seen["running while drained"] = len(tasks("RUNNING"))
    wait_for("the node is back", resumed)

    wait_for("all tasks ended", lambda: not call("squeue", "--noheader").stdout.strip(), 600)
    seen["seconds"] = round(time.monotonic() - start)
    seen["restarts"] = restarts(job)
    status = medfuse("status", OUT, "--json")
    seen["status"] = {"exit": status.returncode, **json.loads(status.stdout)}
    seen["left over"] = sorted(path.name for path in OUT.glob(".*"))

    again = call("sbatch", "--wait", "--parsable", script, check=False)
    seen["exit of the array with a bad case"] = again.returncode
    logs = [path.read_text() for path in Path.cwd().glob(f"medfuse-{again.stdout.strip()}_*.log")]
    counts = [re.findall(r"^(\d+) fused, (\d+) done before", text, re.MULTILINE) for text in logs]
    seen["fused again, done before"] = [sum(int(count[i]) for [count] in counts) for i in range(2)]
    seen["group"] = medfuse("batch", DATA, OUT, "group").stdout
    print(json.dumps(seen))


main()

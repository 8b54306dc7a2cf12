"""What batches come through: `python tests/faults [NAME ...] [--cases N] [--kills N]` prints a line for each.

Each fault is made for real: processes are killed, a file system is full. Whatever happens, a case is whole or absent,
and in the end all bytes are those of a run to which nothing happened.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from small_cases import results, write_pair

from medfuse.cohort.plan import make_plan
from medfuse.console import quieten
from medfuse.io import discover
from medfuse.pipeline import OUTPUTS, SaveFusiond, Workflow, collect, run_batch, write_outputs
from medfuse.pipeline.ledger import is_done, peak_memory

FORK = multiprocessing.get_context("fork")
MIB = 1 << 20
TINY = 0.2  # s of CPU that a tiny case may take beside what it computes, on one core of an AMD EPYC of 2024
CORE = 0.0198  # s of CPU that `yardstick` takes on that core


class Bench:
    """A folder with cases, what a whole run makes of them, and how often things happen."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.random = random.Random(options.seed)
        self.data, self.whole = folder / "data", folder / "whole"
        for seed in range(4):
            write_pair(self.data / f"case{seed}", seed=seed, shape=(16, 16, 3))
        self.seconds = self.run(self.whole)
        self.expected = results(self.whole)

    def run(self, out: Path, **options: object) -> float:
        """Run a batch in this process; return its time."""
        started = time.monotonic()
        run_batch(discover(self.data).cases, out, steps=1, device="cpu", resume=True, **options)
        return time.monotonic() - started

    def child(self, work: Callable[[], object]) -> multiprocessing.Process:
        process = FORK.Process(target=work)
        process.start()
        return process

    def whole_or_absent(self, out: Path) -> None:
        """Raise unless every folder of a case is complete by its own record."""
        for path in out.iterdir() if out.is_dir() else ():
            if path.is_dir() and not path.name.startswith("."):
                record = json.loads((path / f"{path.name}_done.json").read_text())
                assert is_done(path, path, path.name, record["based_on"]), path.name

    def same(self, out: Path) -> None:
        assert results(out) == self.expected
        assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def kills(bench: Bench) -> str:
    """Kill a batch at random points of its work, and go on."""
    out, runs, left = bench.folder / "kills", 1, bench.options.kills
    while left:
        process = bench.child(lambda: bench.run(out))
        process.join(bench.random.uniform(0, 1.1 * bench.seconds))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            left -= 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
        bench.whole_or_absent(out)
        if process.exitcode == 0:  # all done: from the beginning
            bench.same(out)
            shutil.rmtree(out)
            runs += 1
    bench.run(out)
    bench.same(out)
    return f"{bench.options.kills} kills of {runs} batches: nothing lost, nothing half-written, the same bytes"


def table_kills(bench: Bench) -> str:
    """Kill what makes table and page, which must be the old ones or the new ones, whole."""
    out = bench.folder / "tables"
    shutil.copytree(bench.whole, out)
    names = ("cases.tsv", "index.html")
    before = {name: (out / name).read_bytes() for name in names}

    def work() -> None:
        while True:
            collect(out)

    for _ in range(bench.options.kills):
        process = bench.child(work)
        time.sleep(bench.random.uniform(0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert {name: (out / name).read_bytes() for name in names} == before
    assert results(out) == bench.expected
    return f"{bench.options.kills} kills while tables and pages were made: each was whole"


def doubled(bench: Bench) -> str:
    """Start two batches at once on one OUT, several times."""
    out, times = bench.folder / "doubled", max(1, bench.options.kills // 20)
    for _ in range(times):
        shutil.rmtree(out, ignore_errors=True)
        pair = [bench.child(lambda: bench.run(out)) for _ in range(2)]
        for process in pair:
            process.join()
        assert [process.exitcode for process in pair] == [0, 0]
        bench.whole_or_absent(out)
        bench.same(out)
    return f"{times} times two batches on one OUT: each case whole, the same bytes"


def clock(bench: Bench) -> str:
    """Set the clock back by a year between two runs, and all files into the future."""
    out = bench.folder / "clock"
    bench.run(out)
    shutil.rmtree(out / "case2")
    future = time.time() + 365 * 86400
    for path in [*out.rglob("*"), *bench.data.rglob("*")]:
        os.utime(path, (future, future))
    kept = {path: path.stat().st_mtime for path in out.glob("case[013]/*")}
    clocks = time.time, time.time_ns
    time.time = lambda: clocks[0]() - 365 * 86400
    time.time_ns = lambda: clocks[1]() - 365 * 86400 * 10**9
    try:
        bench.run(out)
    finally:
        time.time, time.time_ns = clocks
    assert {path: path.stat().st_mtime for path in out.glob("case[013]/*")} == kept
    bench.same(out)
    return "clock set back by a year, files of the future: what was done stayed, the rest was done, the same bytes"


def replaced(bench: Bench) -> str:
    """Replace an input before it is read, when it was, when it was fused, and when all was written."""
    pet = bench.data / "case1" / "pet.nii.gz"
    good, other = pet.read_bytes(), (bench.data / "case0" / "pet.nii.gz").read_bytes()
    stages = [("read", False), ("read", True), ("compute", True), ("write", True)]
    for number, (name, after) in enumerate(stages):
        out, method = bench.folder / f"replaced{number}", getattr(Workflow, name)

        def wrong(self, first, *rest, method=method, after=after):
            if not after:
                pet.write_bytes(other)
            result = method(self, first, *rest)
            pet.write_bytes(other)
            return result

        setattr(Workflow, name, wrong)
        try:
            summary = run_batch(discover(bench.data).cases[1:2], out, steps=1, device="cpu")
        finally:
            setattr(Workflow, name, method)
            pet.write_bytes(good)
        assert "must stay as it is while the case is fused" in summary.failed["case1"], summary
        assert [path.name for path in (out / "case1").iterdir()] == ["case1_failed.json"]
    return f"an input replaced at {len(stages)} points: refused each time, nothing of it was kept"


def full(bench: Bench) -> str:
    """Let a disk be full at the beginning, within and at the end of each file that a case writes."""
    place = bench.folder / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", place]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return "disk full: not tried, as this user may not mount a file system; run it as root"
    try:
        return _full(bench, place)
    finally:
        subprocess.run(["umount", place], check=True)


def _full(bench: Bench, place: Path) -> str:
    page, failed, done = 4096, 0, 0
    case = discover(bench.data).cases[:1]
    points, used = {0}, 0
    files = [path for path in (bench.whole / "case0").rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda p: p.stat().st_mtime_ns):  # as they were written
        size = -(-path.stat().st_size // page)
        points |= {*range(used - 2, used + 4), *(used + size * part // 4 for part in (1, 2, 3))}
        used += size
    for free in sorted(point for point in {*points, *range(used, used + 16), used + 400} if point >= 0):
        for path in place.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        space = os.statvfs(place)
        with (place / "ballast").open("wb") as ballast:
            ballast.write(bytes((space.f_bavail - free) * page))
        try:
            summary = run_batch(case, place / "out", steps=1, device="cpu")
        except OSError as error:  # not even the table: `medfuse` says so in a sentence
            assert error.errno == 28, error
            summary = None
        left = sorted(path.name for path in (place / "out").glob("*/*"))
        if "case0_done.json" in left:  # if not the table beside it
            bench.whole_or_absent(place / "out")
            done += 1
        else:
            assert left in ([], ["case0_failed.json"]), left
            assert summary is None or "space left" in summary.failed["case0"], summary
            failed += 1
    assert failed and done
    where = f"{failed} points of the {len(files)} files of a case"
    return f"a disk full at {where}: refused in a sentence, nothing half-written; {done} had room"


def many(bench: Bench) -> str:
    """Fuse many tiny cases: memory stays, and none takes longer than the first ones.

    Pages and mosaics, 3 MB a case, are written in full, and then replaced by links to the first case's.
    """
    data, count = bench.folder / "many", bench.options.cases
    for number in range(count):
        (data / f"case{number:05d}").mkdir(parents=True)
        for path in (bench.data / "case0").iterdir():
            os.link(path, data / f"case{number:05d}" / path.name)
    seen: list[tuple[float, float]] = []
    write = Workflow.write

    def counted(self, result, folder) -> None:
        write(self, result, folder)
        for path in [p for p in folder.rglob("*") if p.stat().st_size > 100_000]:
            kept = bench.folder / f"kept{path.suffix}"
            if not kept.exists():
                shutil.copyfile(path, kept)
            path.unlink()
            os.link(kept, path)
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / MIB
        seen.append((time.process_time(), rss))
        if len(seen) % max(count // 10, 1) == 0:
            print(f"{len(seen)} of {count} cases: {rss:.0f} MiB", file=sys.stderr, flush=True)

    Workflow.write = counted
    try:
        summary = run_batch(discover(data).cases, bench.folder / "manyout", steps=1, device="cpu", tables=False)
    finally:
        Workflow.write = write
    assert len(summary.fused) == count
    tenth = max(count // 10, 2)
    cpu = [(part[-1][0] - part[0][0]) / (len(part) - 1) for part in (seen[tenth : 2 * tenth], seen[-tenth:])]
    memory = [max(rss for _, rss in part) for part in (seen[tenth : 2 * tenth], seen[-tenth:])]
    started = time.process_time()
    collect(bench.folder / "manyout")
    tables = time.process_time() - started
    return (
        f"{count} cases: {cpu[0]:.3f} s of CPU a case in the second tenth, {cpu[1]:.3f} in the last; "
        f"{memory[0]:.0f} MiB, then {memory[1]:.0f}; table and page {tables:.1f} s, with a peak of {peak_memory()} MiB"
    )


def yardstick() -> float:
    """Return the s of CPU of some work like writing a case: another core, or one that is shared, takes longer."""
    started = time.process_time()
    values = [{"name": str(k), "value": k / 7} for k in range(8000)]
    zlib.compress(json.dumps(json.loads(json.dumps(values))).encode() * 2, 1)
    return time.process_time() - started


def tiny(bench: Bench) -> str:
    """Fuse tiny cases, and tell what each costs beside what it computes."""
    seen: dict[str, list[float]] = {"compute": [], "write": []}
    methods = {name: getattr(Workflow, name) for name in seen}
    ends: list[float] = []
    for name, method in methods.items():

        def timed(self, *given, name=name, method=method):
            started = time.thread_time()
            result = method(self, *given)
            seen[name].append(time.thread_time() - started)
            if name == "write":
                ends.append(time.process_time())
            return result

        setattr(Workflow, name, timed)
    yards = [yardstick()]
    try:
        for number in range(5):
            bench.run(bench.folder / f"tiny{number}")
            yards.append(yardstick())
    finally:
        for name, method in methods.items():
            setattr(Workflow, name, method)
    whole = [b - a for number in range(5) for a, b in pairwise(ends[4 * number : 4 * number + 4])]
    total, compute, write = (statistics.median(times) for times in (whole, seen["compute"], seen["write"]))
    slower = max(1.0, statistics.median(yards) / CORE)
    beside = (total - compute) / slower
    assert beside < TINY, (total, compute, slower)
    return (
        f"a tiny case takes {total:.3f} s of CPU, {compute:.3f} of them to compute and {write:.3f} to write, on a core "
        f"{slower:.2f} times slower than that of the limit: {beside:.3f} beside what it computes, "
        f"{beside / TINY:.2f} of the {TINY} asked"
    )


def index(bench: Bench) -> str:
    """List the cases of a BIDS dataset of 10,000 and make their plan, as `medfuse plan` does once."""
    root, count = bench.folder / "bids", 2 * bench.options.cases
    mri, pet = (bench.data / "case0" / f"{name}.nii.gz" for name in ("mri", "pet"))
    for number in range(count):
        for place, name, source in (("anat", "T1w", mri), ("pet", "pet", pet)):
            folder = root / f"sub-{number:05d}" / place
            folder.mkdir(parents=True)
            os.link(source, folder / f"sub-{number:05d}_{name}.nii.gz")
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.1"}')
    started, cpu = time.monotonic(), time.process_time()
    plan = make_plan(discover(root), root, bench.folder / "plan", sources=("mri", "pet"), steps=1, minutes=30.0)
    took, cpu = time.monotonic() - started, time.process_time() - cpu
    assert len(plan.cases) == count
    return f"{count} cases listed and planned in {took:.1f} s, {cpu:.1f} of CPU"


FAULTS = {f.__name__: f for f in (kills, table_kills, doubled, clock, replaced, full, tiny, index, many)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FAULTS)}; all by default")
    parser.add_argument("--cases", type=int, default=5000, help="of many, and half of those of index (default: 5000)")
    parser.add_argument("--kills", type=int, default=100, help="of kills and table_kills (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--volumes", action="store_true", help="write volumes and records alone: no pictures, no reports"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    quieten()
    if options.volumes:
        volumes = [output for output in OUTPUTS if output.bids_label is not None]
        SaveFusiond.write = lambda self, result, folder: write_outputs(result, folder, volumes)
    for name in options.names or FAULTS:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            started = time.monotonic()
            told = FAULTS[name](Bench(Path(folder), options))
            print(f"{name}: {told} ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()

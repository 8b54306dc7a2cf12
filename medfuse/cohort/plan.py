"""A plan: the cases of an input, listed once, their sizes, and packs of equal work.

It lies in `OUT/.medfuse/plan.json`, for the program, with the paths of the inputs relative to the input: another
machine, or a container, may see that elsewhere. `OUT/plan.tsv` shows it to people, without a path, as any may name a
patient.
"""

from __future__ import annotations

import csv
import hashlib
import heapq
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from medfuse.about import NOTICE, __version__
from medfuse.cohort.sizes import expected_memory, expected_seconds, megavoxels
from medfuse.errors import BundleError
from medfuse.io.atomic import atomic_file, write_json
from medfuse.io.derivative import EXTRAS, case_folder
from medfuse.io.places import input_paths
from medfuse.psf import is_native
from medfuse.schema import checked_items

if TYPE_CHECKING:
    from medfuse.io import Discovery

FOLDER, TABLE = ".medfuse", "plan.tsv"
BIDS = "BIDS dataset"
_FILE, _FORMAT = "plan.json", 1
_COLUMNS = ("case", "pack", "megavoxels", "seconds", "memory_mib", "problem")


@dataclass(frozen=True)
class PlannedCase:
    """A case of a plan.

    Attributes:
        case: Its id.
        pack: Number of the pack that it is in, from 1.
        megavoxels: Size of the images that are fused, together, in 1e6 voxels.
        seconds: Expected time on one core.
        memory_mib: Expected memory of a process that fuses such cases one after another, MiB.
        item: The case as `medfuse.io.discover` lists it, paths relative to the input.
    """

    case: str
    pack: int
    megavoxels: float
    seconds: float
    memory_mib: int
    item: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """The cases of an input in packs.

    Attributes:
        layout: What the input is, see `medfuse.io.Discovery`.
        sources: Keys of the sources.
        packs: How many packs there are.
        cases: Sorted by id.
        manifest: SHA-256 of a manifest; empty for a folder.
    """

    layout: str
    sources: tuple[str, str]
    packs: int
    cases: tuple[PlannedCase, ...]
    manifest: str = ""

    @property
    def seconds(self) -> float:
        """Expected time of all cases, one after the other."""
        return sum(case.seconds for case in self.cases)

    @property
    def memory_mib(self) -> int:
        """Expected memory of the largest, MiB."""
        return max(case.memory_mib for case in self.cases)

    def pack(self, number: int) -> list[PlannedCase]:
        """Return the cases of a pack."""
        return [case for case in self.cases if case.pack == number]

    def home(self, out: str | Path, case: str) -> Path:
        """Return where the records of a case lie."""
        return home_of(self.layout, out, case)


def home_of(layout: str, out: str | Path, case: str) -> Path:
    """Return where the records of a case lie, by what the input is."""
    return Path(out) / case_folder(case) / EXTRAS if layout == BIDS else Path(out) / case


def make_plan(
    found: Discovery,
    source: str | Path,
    out: str | Path,
    *,
    sources: tuple[str, str],
    packs: int | None = None,
    minutes: float = 30.0,
    steps: int = 1,
) -> Plan:
    """Put the cases of an input into packs of equal work.

    The longest case first, each into the pack with the least work so far (Graham, Bounds on multiprocessing timing
    anomalies, SIAM J. Appl. Math. 17, 1969): no pack has more than 4/3 of what the best of all partitions has.

    Args:
        found: The cases.
        source: The input that they were found in.
        out: Folder for the results: cases that are done there say how fast this machine is.
        sources: Keys of the sources, those of the bundle.
        packs: How many; by default as many as take `minutes` each.
        minutes: Time that a pack shall take.
        steps: Reverse steps.

    Raises:
        BundleError: There is no case, an id is none or comes twice, or a number makes no sense.
    """
    if not (packs is None or packs >= 1) or not 0 < minutes < math.inf:
        raise BundleError("Packs must be 1 or more, and take more than 0 minutes, got less; change it.")
    items = sorted(checked_items(found.cases, keys=sources), key=lambda item: str(item["case"]))
    if not items:
        raise BundleError("The input must hold a case, got none; check it.")
    root = Path(source)
    sizes = [sizes_of(item, sources) for item in items]
    native = is_native(None, sources)  # no more is known here
    seconds = [expected_seconds(s[0], steps, native=sum(s) if native else 0.0) if any(s) else 0.0 for s in sizes]
    scale = _pace(found.layout, items, seconds, Path(out))
    seconds = [round(scale * s, 2) for s in seconds]
    count = min(packs or math.ceil(sum(seconds) / (60 * minutes)) or 1, len(items))
    numbers = _packed(seconds, count)
    cases = tuple(
        PlannedCase(str(item["case"]), number, round(sum(size), 3), s, expected_memory(size), _relative(item, root))
        for item, number, s, size in zip(items, numbers, seconds, sizes, strict=True)
    )
    return Plan(found.layout, sources, count, cases, _manifest(root))


def write_plan(plan: Plan, out: str | Path) -> None:
    """Write a plan into the folder for the results, in place of an earlier one.

    Raises:
        OSError: If the folder cannot be written to.
    """
    out = Path(out)
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(_COLUMNS)
    for case in plan.cases:
        row = (case.case, case.pack, case.megavoxels, case.seconds, case.memory_mib, case.item.get("problem", ""))
        writer.writerow([" ".join(str(cell).split()) for cell in row])
    with atomic_file(out / TABLE) as file:
        file.write(text.getvalue().encode())
    (out / FOLDER).mkdir(mode=0o700, exist_ok=True)  # it holds paths
    write_json(out / FOLDER / _FILE, {"format": _FORMAT, "notice": NOTICE, "medfuse": __version__, **asdict(plan)})


def has_plan(out: str | Path) -> bool:
    """Return whether there is a plan in a folder for results."""
    return (Path(out) / FOLDER / _FILE).is_file()


def read_plan(out: str | Path) -> Plan:
    """Return the plan in a folder for results.

    Raises:
        BundleError: If there is none, or it cannot be read.
    """
    if not has_plan(out):
        raise BundleError("OUT must hold a plan, got none; make it with `medfuse plan INPUT OUT`.")
    try:
        content = json.loads((Path(out) / FOLDER / _FILE).read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(content["format"])
        names = tuple(content["sources"])
        cases = tuple(PlannedCase(**case) for case in content["cases"])
        return Plan(content["layout"], (names[0], names[1]), int(content["packs"]), cases, content["manifest"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BundleError("The plan in OUT must be one of this version, got another; make it anew.") from error


def cases_of(plan: Plan, source: str | Path, shard: tuple[int, int], *, sources: Sequence[str]) -> list[dict[str, Any]]:
    """Return the cases of every N-th pack from the I-th on, with their paths in an input.

    Args:
        plan: Of that input.
        source: The input, wherever it lies now.
        shard: I and N, 1 <= I <= N: with as many parts as packs, the I-th pack.
        sources: Keys of the sources of the bundle.

    Raises:
        BundleError: The plan is of other sources or another manifest, or has fewer packs than there are parts.
    """
    number, count = shard
    if tuple(sources) != plan.sources:
        raise BundleError(
            f"The plan in OUT must be for {' and '.join(sources)}, the sources of the bundle, got "
            f"{' and '.join(plan.sources)}; make it anew with --bundle."
        )
    if not 1 <= number <= count <= plan.packs:
        raise BundleError(
            f"A shard must be I/N with 1 <= I <= N, and N at most the packs of the plan, {plan.packs}, got "
            f"{number}/{count}; change it, or plan anew with --packs."
        )
    root = Path(source)
    if plan.manifest != _manifest(root):
        raise BundleError("The input must be what the plan in OUT was made of, got another; plan it anew.")
    chosen = (case for case in plan.cases if (case.pack - number) % count == 0)
    return [_absolute(case.item, root) for case in chosen]


def sizes_of(item: Mapping[str, Any], keys: Sequence[str]) -> list[float]:
    """Return the sizes of the sources, that of the reference first; none for a case that cannot be fused."""
    if "problem" in item:
        return [0.0 for _ in keys]
    known = {path: megavoxels(path) for path in {str(item[key]) for key in keys}}
    shared = len(keys) if len(known) == 1 else 1  # a folder that holds both
    return [known[str(item[key])] / shared for key in keys]


def _pace(layout: str, items: Sequence[Mapping[str, Any]], seconds: Sequence[float], out: Path) -> float:
    """Return by how much the cases that are done in a folder took longer than expected, 1 where there is none."""
    ratios: list[float] = []
    for item, expected in zip(items, seconds, strict=True):
        if expected and len(ratios) < 1000:
            taken = taken_seconds(home_of(layout, out, str(item["case"])), str(item["case"]))
            ratios += [taken / expected] if taken else []
    return median(ratios) if ratios else 1.0


def taken_seconds(home: Path, case: str) -> float | None:
    """Return how long a case took, by its done record; None where there is none."""
    try:
        return float(json.loads((home / f"{case}_done.json").read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _packed(seconds: Sequence[float], count: int) -> list[int]:
    """Return the number of the pack of each case, from 1."""
    packs = [(0.0, 0, number) for number in range(1, count + 1)]  # work, cases, number
    numbers = [0] * len(seconds)
    for place in sorted(range(len(seconds)), key=lambda k: -seconds[k]):
        work, cases, number = heapq.heappop(packs)
        numbers[place] = number
        heapq.heappush(packs, (work + seconds[place], cases + 1, number))
    return numbers


def _root(source: Path) -> Path:
    return source if source.is_dir() else source.parent


def _relative(item: Mapping[str, Any], source: Path) -> dict[str, Any]:
    root, paths = os.path.abspath(_root(source)), input_paths(item)  # noqa: PTH100  (links stay as they are)
    below: dict[str, Any] = {key: os.path.relpath(path, root) for key, path in paths.items() if _below(path, root)}
    return {**item, **{key: str(path.absolute()) for key, path in paths.items()}, **below}


def _below(path: Path, root: str) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(root)  # noqa: PTH100


def _absolute(item: Mapping[str, Any], source: Path) -> dict[str, Any]:
    root = _root(source)
    return {**item, **{key: str(root / path) for key, path in input_paths(item).items()}}


def _manifest(source: Path) -> str:
    return hashlib.sha256(source.read_bytes()).hexdigest() if source.is_file() else ""


def total(values: Iterable[float]) -> str:
    """Return a time in words, such as `2.5 h`."""
    seconds = sum(values)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"

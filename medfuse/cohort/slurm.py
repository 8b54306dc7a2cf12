"""The array script for Slurm: a task for each pack of a plan, which may be killed and queued again at any time."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from medfuse.about import NOTICE, __version__
from medfuse.cohort.plan import Plan, total
from medfuse.errors import BundleError
from medfuse.progress import counted

_MARGIN = 3.0  # by which the time limit exceeds what is expected
_LEAST = 30 * 60  # seconds of a time limit
_MEMORY_MARGIN = 1.25
_MAX_ARRAY = 1000  # tasks, where a site has not raised Slurm's MaxArraySize of 1001


def slurm_script(
    plan: Plan,
    source: str | Path,
    out: str | Path,
    *,
    command: Sequence[str] = ("medfuse",),
    options: Sequence[str] = (),
    threads: int = 2,
    at_once: int | None = None,
    image: str | Path | None = None,
) -> str:
    """Return a script for `sbatch`.

    Each task fuses a pack with `--resume`: a task that was killed, or whose node went away, does what is left when
    Slurm queues it again. All have the same number of threads, on which last bits may depend.

    Args:
        plan: The plan in `out`.
        source: The input.
        out: Folder for the results.
        command: How medfuse is called on a node.
        options: Of `medfuse batch`, such as `--degradation composite`.
        threads: Cores of a task.
        at_once: Most tasks that run at a time; by default as many as Slurm lets.
        image: An Apptainer image to call in place of `command`.

    Raises:
        BundleError: A number makes no sense.
    """
    if threads < 1 or (at_once is not None and at_once < 1):
        raise BundleError("Threads and tasks at once must be 1 or more, got less; change it.")
    here, there = Path(source).absolute(), Path(out).absolute()
    if any("\n" in str(text) for text in (here, there, image, *command, *options)):
        raise BundleError("Paths in a script must be without line breaks, got one; rename the folder.")
    seconds = [0.0] * (plan.packs + 1)
    for case in plan.cases:
        seconds[case.pack] += case.seconds
    limit = max(math.ceil(_MARGIN * max(seconds) / 60), _LEAST // 60)  # min
    memory = math.ceil(_MEMORY_MARGIN * plan.memory_mib / 100) * 100
    words = list(command)
    if image is not None:
        place = here if here.is_dir() else here.parent
        binds = ["--bind", f"{place}:{place}:ro", "--bind", f"{there}:{there}"]
        threading = ["--env", f"OMP_NUM_THREADS={threads}"]
        words = ["apptainer", "run", "--cleanenv", *threading, *binds, str(Path(image).absolute())]
    called = shlex.join([*words, "batch", str(here), str(there)])
    shard = f'"${{SLURM_ARRAY_TASK_ID:?submit this with sbatch}}/{plan.packs}"'
    lines = [
        "#!/bin/bash",
        f"# medfuse {__version__}: {counted(len(plan.cases), 'case')} in {counted(plan.packs, 'pack')}, about "
        f"{total(seconds)} of work, at most {total([max(seconds)])} a pack.",
        f"# {NOTICE}",
        "# Submit it, then merge the tables:",
        "#   job=$(sbatch --parsable THIS_FILE)",
        f'#   sbatch --dependency=afterany:"$job" --wrap {shlex.quote(f"{called} group")}',
    ]
    if plan.packs > _MAX_ARRAY:
        lines.append(
            f"# More than {_MAX_ARRAY} tasks: see MaxArraySize in `scontrol show config`, or plan fewer packs."
        )
    lines += [
        "#SBATCH --job-name=medfuse",
        f"#SBATCH --array=1-{plan.packs}{'' if at_once is None else f'%{at_once}'}",
        f"#SBATCH --cpus-per-task={threads}",
        f"#SBATCH --mem={memory}M",
        f"#SBATCH --time={limit}",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=medfuse-%A_%a.log",
        "set -eu",
        f"export OMP_NUM_THREADS={threads}",
        " ".join(["exec", called, "participant --resume --shard", shard, *map(shlex.quote, options)]),
    ]
    return "\n".join(lines) + "\n"

"""Run the corpus of malformed inputs and print what became of them.

The exit code is 1 unless each was refused, warned of or harmless.

python tests/malformed [FAMILY ...]
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from malformed import dicom, images, nifti, tables
from malformed.corpus import KINDS, Worker
from tqdm import tqdm


def main(wanted: list[str]) -> int:
    """Print what went wrong at once, then a table by family, and one last line."""
    cases = [case for part in (nifti, dicom, images, tables) for case in part.cases()]
    cases = [case for case in cases if not wanted or any(case.family.startswith(w) for w in wanted)]
    worker, outcomes = Worker(cases), []
    for number, case in enumerate(tqdm(cases, unit="input", disable=None)):
        outcome = worker(number)
        outcomes.append(outcome)
        if outcome.kind in ("silent", "traceback"):
            print(f"{outcome.kind}: {case.family}: {case.name}\n{outcome.text[:3000]}\n", flush=True)
    worker.stop()

    print(f"{'family':<22}{'inputs':>8}" + "".join(f"{kind:>11}" for kind in KINDS) + f"{'slowest':>10}")
    for family in dict.fromkeys(case.family for case in cases):
        of = [o for case, o in zip(cases, outcomes, strict=True) if case.family == family]
        counts = Counter(o.kind for o in of)
        slowest = max(o.seconds for o in of)
        print(f"{family:<22}{len(of):>8}" + "".join(f"{counts[kind]:>11}" for kind in KINDS) + f"{slowest:>8.1f} s")
    counts = Counter(o.kind for o in outcomes)
    print(
        f"{len(cases)} malformed inputs: {counts['silent']} silent successes, "
        f"{counts['traceback']} unexplained tracebacks"
    )
    return int(counts["silent"] + counts["traceback"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Measure everything that docs/explanation/results.md says, and write the page.

    python tests/results --bench BENCH --data DATA

BENCH holds `dev/` (clean and degraded image pairs), `peers.json` (the figures of other methods on them), `degrade.py`
and `phantom.py` (independent simulators); DATA holds `harvard/splits.tsv`, which tells the subject of each pair.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results.ablation import PATH as ABLATION
from results.images import Dev, scenarios, unseen, wrong
from results.page import render
from results.phantoms import phantoms
from results.pictures import restoration

from medfuse.io import atomic_file, write_json
from medfuse.pipeline import load_fusion, sha256

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "results.md"


def main() -> None:
    """Run the experiments, write the figures and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    dev, fusion = Dev(options.bench, options.data), load_fusion()
    restoration(fusion, ROOT / "docs" / "images" / "restoration.png")
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "weights_sha256": sha256(fusion.weights),
            "scenarios": scenarios(dev, Path(folder)),
            "unseen": unseen(dev, Path(folder)),
            "wrong": wrong(dev, Path(folder)),
            "phantoms": phantoms(fusion, options.bench),
        }
    write_json(PAGE.with_suffix(".json"), results)
    ablation = json.loads(ABLATION.read_text()) if ABLATION.exists() else None
    with atomic_file(PAGE) as file:
        file.write(render(results, json.loads((options.bench / "peers.json").read_text()), ablation).encode())
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

"""Measure everything that the results pages say, and write them: docs/explanation/results*.md and .json.

    python tests/results --bench BENCH --data DATA [--only BUNDLE | volumes] [--pages]

BENCH holds `dev/` and `irvis_dev/` (clean and degraded image pairs), `peers.json` and `peers_irvis.json` (the figures
of other methods on them), `degrade.py` and `phantom.py` (independent simulators); DATA holds `harvard/splits.tsv`,
which tells the subject of each pair, and `volumes/mni152`. `volumes` needs DATA alone. With `--pages`, nothing is
measured: the pages are written of the figures that are there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results.ablation import PATH as ABLATION
from results.colours import of_colours
from results.failures import failures
from results.images import ANATOMY, FUSION, Dev, scenarios, unseen, wrong
from results.infrared import InfraredDev, classical, speed
from results.page import infrared_visible, pet_mri
from results.phantoms import phantoms
from results.pictures import restoration
from results.rules import of_methods, of_rules
from results.volume_page import PEERS, volumes_page
from results.volumes import volumes

from medfuse.io import atomic_file, write_json
from medfuse.pipeline import Fusion, load_fusion, sha256
from medfuse.training.brains import COLIN27

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "explanation"


def measure_pet_mri(fusion: Fusion, bench: Path, data: Path, work: Path) -> dict[str, Any]:
    """Run the experiments on PET and MRI."""
    dev = Dev(bench, data)
    restoration(fusion, ROOT / "docs" / "images" / "restoration.png")
    return {
        "weights_sha256": sha256(fusion.weights),
        "scenarios": scenarios(dev, fusion, work),
        "rules": of_rules(dev, fusion.bundle, work),
        "colours": of_colours(dev),
        "methods": of_methods(dev, (*FUSION, *ANATOMY)),
        "unseen": unseen(dev, work),
        "wrong": wrong(dev, work),
        "phantoms": phantoms(fusion, bench),
    }


def page_pet_mri(results: dict[str, Any], bench: Path) -> str:
    """Return the page of PET and MRI."""
    ablation = json.loads(ABLATION.read_text()) if ABLATION.exists() else None
    return pet_mri(results, json.loads((bench / "peers.json").read_text()), ablation)


def measure_infrared_visible(fusion: Fusion, bench: Path, data: Path, work: Path) -> dict[str, Any]:
    """Run the experiments on infrared and visible images."""
    dev = InfraredDev(bench)
    return {
        "weights_sha256": sha256(fusion.weights),
        "scenarios": scenarios(dev, fusion, work),
        "classical": classical(dev),
        "speed": speed(dev, fusion, work),
    }


def page_infrared_visible(results: dict[str, Any], bench: Path) -> str:
    """Return the page of infrared and visible images."""
    return infrared_visible(results, json.loads((bench / "peers_irvis.json").read_text()))


def measure_volumes(data: Path, colin: Path, *, more: bool, again: list[str]) -> None:
    """Run the experiments on PET on its own grid; write figures and page after each head."""
    file = _figures("volumes.md")
    known = json.loads(file.read_text(encoding="utf-8")) if (more or again) and file.exists() else None
    picture = ROOT / "docs" / "images" / "volumes.png"
    for results in volumes(data, colin=colin, picture=picture, known=known, again=again):
        file.write_text(_by_rows(results), encoding="utf-8")
        page_volumes(results)


def _by_rows(results: dict[str, Any]) -> str:
    """Return figures as JSON with a line for each row of a table, to five digits."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(v) for key, v in value.items()}
        return float(f"{value:.5g}") if isinstance(value, float) else value

    parts = []
    for key, value in results.items():
        rows = isinstance(value, list) and value and isinstance(value[0], dict)
        text = "[\n" + ",\n".join(json.dumps(rounded(row)) for row in value) + "\n]" if rows else json.dumps(value)
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def page_volumes(results: dict[str, Any]) -> None:
    """Write the page of PET on its own grid."""
    _write("volumes.md", volumes_page(results, json.loads(PEERS.read_text()) if PEERS.exists() else None))


EXPERIMENTS = {
    "pet_mri_fusion": ("results.md", measure_pet_mri, page_pet_mri),
    "ir_vis_fusion": ("results-infrared-visible.md", measure_infrared_visible, page_infrared_visible),
}


def main() -> None:
    """Run the experiments, write the figures and the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, help="needed by all but volumes")
    parser.add_argument("--data", type=Path, help="needed by all but failures")
    parser.add_argument("--colin", type=Path, default=COLIN27, help="Colin27 without skull (default: %(default)s)")
    parser.add_argument("--only", choices=[*EXPERIMENTS, "volumes", "failures"], help="what to measure; default: all")
    parser.add_argument("--pages", action="store_true", help="measure nothing; write the pages anew")
    parser.add_argument("--more", action="store_true", help="volumes: keep the heads that are in the figures already")
    parser.add_argument("--again", nargs="+", default=[], metavar="METHOD", help="volumes: run these alone again")
    options = parser.parse_args()
    chosen = [options.only] if options.only else [*EXPERIMENTS, "volumes", "failures"]
    if "failures" in chosen and not options.pages:
        for name, (before, after) in failures(load_fusion(device="cpu"), ROOT / "docs/images/failures.png").items():
            print(f"{name}: MRI {before:.1f} dB degraded, {after:.1f} dB restored")
    chosen = [name for name in chosen if name != "failures"]
    if options.data is None and chosen:
        parser.error("--data must name the folder of the research data, got none; give it, or --only failures")
    if options.bench is None and chosen not in ([], ["volumes"]):
        parser.error("--bench must name the folder of the image pairs, got none; give it, or --only volumes")
    for bundle in (name for name in EXPERIMENTS if name in chosen):
        name, measure, page = EXPERIMENTS[bundle]
        if not options.pages:
            fusion = load_fusion(bundle, device="cpu")
            with tempfile.TemporaryDirectory() as folder:
                write_json(_figures(name), measure(fusion, options.bench, options.data, Path(folder)))
        _write(name, page(json.loads(_figures(name).read_text(encoding="utf-8")), options.bench))
    if "volumes" in chosen and options.pages:
        page_volumes(json.loads(_figures("volumes.md").read_text(encoding="utf-8")))
    elif "volumes" in chosen:
        measure_volumes(options.data, options.colin, more=options.more, again=options.again)


def _figures(page: str) -> Path:
    return (PAGES / page).with_suffix(".json")


def _write(name: str, text: str) -> None:
    with atomic_file(PAGES / name) as file:
        file.write(text.encode())
    print(f"wrote {(PAGES / name).relative_to(ROOT)}")


if __name__ == "__main__":
    main()

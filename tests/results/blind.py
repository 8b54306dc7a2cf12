"""Make a sheet of fused images to judge without knowing which method made which.

    python tests/results/blind.py OUT [--bench BENCH] [--seed N] [--pairs N]

OUT gets a page for each pair: `NN.png`, with both sources above and the fused images of the methods below, letters in
an order that is drawn anew for each pair; `key.json`, which letter is which method, to be opened after the verdicts are
written; and `verdicts.tsv`, to be filled in: the letters from best to worst, such as `CAB`. `--tally VERDICTS.tsv` then
counts. The pairs are slices of the shipped cases, and of the dev set where `--bench` is given.

Question to the judge: in which image can both be read, the anatomy under the uptake and the uptake itself?
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results.images import read
from results.pictures import demo_slice
from results.rules import METHODS

from medfuse.io import require_writable, write_json
from medfuse.pipeline import Fusion, load_fusion
from medfuse.report import save_contact_sheet

RULES = ("two_scale", "predicted", "convex")
_LETTERS = "ABCDEFGH"
_DEMO = ("sts_case", "brain_phantom")
_SHARES = (0.3, 0.42, 0.7)  # of the slices of a shipped case, beside that of the highest uptake


def pairs(bench: Path | None, number: int, rng: np.random.Generator) -> list[tuple[str, Tensor]]:
    """Return names and images **[1, 2, H, W]** in 0..1: all of the shipped cases, then drawn from the dev set."""
    shares = (None, *_SHARES)
    found = [(f"{case}, slice {k}", demo_slice(case, share)) for case in _DEMO for k, share in enumerate(shares)]
    if bench is None:
        return found[:number]
    clean = bench / "dev" / "clean"
    names = sorted(path.stem for path in (clean / "mri").glob("*.png"))
    for name in rng.permutation(names)[: max(number - len(found), number // 2)]:
        found.append((str(name), torch.cat([read(clean / kind / f"{name}.png") for kind in ("mri", "fun")], 1).float()))
    return found[-number:] if len(found) > number else found


def fused(fusions: dict[str, Fusion], pair: Tensor) -> dict[str, Tensor]:
    """Return the fused image **[H, W]** of each method."""
    made = {name: method(pair[:, :1].double(), pair[:, 1:].double())[0, 0] for name, method in METHODS.items()}
    with torch.inference_mode():
        for name, fusion in fusions.items():
            made[f"medfuse, {name}"] = fusion(pair, degradation="none")["fused"][0, 0]
    return {name: image.clamp(0, 1) for name, image in made.items()}


def make(out: Path, bench: Path | None, seed: int, number: int) -> None:
    """Write the sheet, its key and an empty table of verdicts."""
    require_writable(out)
    rng = np.random.default_rng(seed)
    fusions = {rule: load_fusion(device="cpu", fusion_rule=rule) for rule in RULES}
    key: dict[str, dict[str, str]] = {}
    chosen = pairs(bench, number, rng)
    for place, k in enumerate(rng.permutation(len(chosen)), 1):
        name, pair = chosen[k]
        made = fused(fusions, pair)
        order = [str(m) for m in rng.permutation(sorted(made))]
        key[f"{place:02d}"] = {"pair": name, **dict(zip(_LETTERS, order, strict=False))}
        _draw(out / f"{place:02d}.png", pair, [made[m] for m in order], f"Pair {place:02d}")
    write_json(out / "key.json", {"seed": seed, "pairs": key})
    lines = ["pair\torder\twhy", *(f"{place}\t\t" for place in key)]
    (out / "verdicts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(key)} pairs in {out}; write verdicts.tsv before key.json is opened")


def _draw(path: Path, pair: Tensor, images: list[Tensor], title: str) -> None:
    """Draw both sources, then the fused images three a row; a row is named by its letters."""
    empty = torch.zeros_like(images[0])
    rows = [("anatomy | function", [pair[0, 0], pair[0, 1], empty])]
    for k in range(0, len(images), 3):
        row = images[k : k + 3]
        rows.append((" | ".join(_LETTERS[k : k + len(row)]), [*row, *[empty] * (3 - len(row))]))
    save_contact_sheet(path, rows, ("left", "middle", "right"), title=title)


def tally(verdicts: Path) -> None:
    """Print how often each method was first, and its mean place, by the key beside the verdicts."""
    key = json.loads((verdicts.parent / "key.json").read_text(encoding="utf-8"))["pairs"]
    places: dict[str, list[int]] = {}
    with verdicts.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            letters = [letter for letter in row["order"] if letter in key[row["pair"]]]
            for place, letter in enumerate(letters, 1):
                places.setdefault(key[row["pair"]][letter], []).append(place)
    for name, found in sorted(places.items(), key=lambda item: float(np.mean(item[1]))):
        print(f"{name}: first in {found.count(1)} of {len(found)}, mean place {np.mean(found):.2f}")


def main() -> None:
    """Make a sheet, or count verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="folder of the sheet")
    parser.add_argument("--bench", type=Path, help="folder that holds dev/; without, shipped cases alone")
    parser.add_argument("--seed", type=int, default=0, help="of the order of pairs and methods (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=12, help="how many at most (default: %(default)s)")
    parser.add_argument("--tally", type=Path, help="verdicts.tsv, filled in: count, and make nothing")
    options = parser.parse_args()
    if options.tally:
        tally(options.tally)
    elif options.out:
        make(options.out, options.bench, options.seed, options.pairs)
    else:
        parser.error("OUT must be a folder, got none; name one, or --tally")


if __name__ == "__main__":
    main()

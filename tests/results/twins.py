"""What one source makes the other show: `python tests/results/twins.py BENCH [--cases N]`.

Phantoms of `BENCH/phantom.py` with and without some of their lesions, with the same noise: the difference is the answer
to those lesions alone. Printed for each kind and size, and with the MRI where it belongs and 2 px off: the response of
the restored PET and of its data alone (`medfuse.physics.data_alone`), over that of the truth where there is one, else
over the activity about the lesion; and the share of what was invented in the lesion.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results.images import load_module
from results.phantoms import DEGRADATION, _twins

from medfuse.physics import JointObservation, data_alone
from medfuse.pipeline import Fusion, load_fusion

TWINS = {"pet_only": "no PET-only", "pet_cold": "no PET-only", "mr_only": "no MRI-only"}
SHIFTS = (0, 2)


def responses(fusion: Fusion, maker: Any, case: int, shift: int) -> list[dict[str, Any]]:
    """Return a row for each lesion that is in one source alone."""
    images, _, lesions = maker.case(256, np.random.default_rng([0, case]))
    twins = _twins(images, lesions)
    found = {name: _restored(fusion, pair, case, shift) for name, pair in twins.items()}
    rows = []
    y, x = np.mgrid[:256, :256]
    for lesion in (lesion for lesion in lesions if lesion["kind"] in TWINS):
        inside = torch.from_numpy(np.hypot(y - lesion["y"], x - lesion["x"]) < max(lesion["radius"] - 0.5, 1.0))
        without = TWINS[lesion["kind"]]
        truth = float((twins["all"] - twins[without])[0, 1][inside].mean())
        about = float(twins[without][0, 1][inside].mean())
        restored, alone = (float((a - b)[inside].mean()) for a, b in zip(found["all"], found[without], strict=True))
        by = truth if lesion["kind"] != "mr_only" else about
        invented = (found["all"][0] - found["all"][1])[inside]
        rows.append({
            "kind": lesion["kind"], "radius": lesion["radius"], "restored": restored / by, "data alone": alone / by,
            "invented share": float(invented.square().mean().sqrt()) / max(float(found["all"][0][inside].mean()), 1e-6),
        })  # fmt: skip
    return rows


def _restored(fusion: Fusion, pair: Tensor, case: int, shift: int) -> tuple[Tensor, Tensor]:
    """Return the restored PET **[H, W]**, and what its data alone say."""
    generator = torch.Generator().manual_seed(case)
    moved = torch.cat([pair[:, :1].roll(shift, 2), pair[:, 1:]], 1)
    y = torch.cat([part.simulate(moved[:, i : i + 1], generator) for i, part in enumerate(DEGRADATION)], 1)
    alone = data_alone(JointObservation.from_images(y, DEGRADATION).source2)
    return fusion(y, degradation=DEGRADATION, steps=1)["source2"][0, 0], alone[0, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path)
    parser.add_argument("--cases", type=int, default=5)
    options = parser.parse_args()
    fusion, maker = load_fusion("pet_mri_fusion", device="cpu"), load_module(options.bench / "phantom.py")
    table: dict[str, Any] = {}
    for shift in SHIFTS:
        rows = [row for case in range(options.cases) for row in responses(fusion, maker, case, shift)]
        for kind, radius in sorted({(row["kind"], row["radius"]) for row in rows}):
            some = [row for row in rows if (row["kind"], row["radius"]) == (kind, radius)]
            means = {key: round(float(np.mean([row[key] for row in some])), 3) for key in list(some[0])[2:]}
            table[f"{kind}, {radius:g} px, MRI off by {shift} px"] = means | {"lesions": len(some)}
    json.dump(table, sys.stdout, indent=1)


if __name__ == "__main__":
    main()

"""FWHM of PETs of phantoms, found with their MRI: error and coverage of `medfuse.volumes.measure_psf`.

    python tests/results/widths.py --data DATA --log FILE [--heads 40] [--first 2] [--scans 10] [--case NAME]

Heads of ICBM152, deformed, T1 and T2 in turn; voxels of 2 to 4 mm, PSF of 4 to 8 mm, 10 to 30 % of coloured noise at an
uptake of 2 (white matter 1, grey 3 to 5), 30 % of regional uptake and 5 % of texture that the MRI does not show, the
registration up to 1.5 mm and 1 degree off. Each case is a line of FILE, and those that it holds are not run again.
Constants were chosen on heads 0, 1 and 1000 to 1004, and on those of `volume_scenes` of seeds 101 to 119; those from 2
on were no one's choice.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medfuse.training.brains import Brain, icbm152
from medfuse.training.scans import ScanSetting, scan
from medfuse.training.volumes import Head, Tissue, draw_head
from medfuse.volumes import measure_psf

SHAPE, SPACING, VARIATION, TEXTURE = (84, 102, 84), 2.0, 0.3, 0.05
CASES: dict[str, dict[str, Any]] = {
    "ordinary": {},
    "noisy T2": {"contrast": "t2", "mri_noise": 0.05},
    "low contrast": {"grey": 2 / 1.5},
}
"""Name of a case, and what is otherwise than in the ordinary one."""


def head_of(brain: Brain, seed: int, what: dict[str, Any]) -> Head:
    """Draw a head; `grey` of what is otherwise is the uptake of grey matter, white matter being 1."""
    contrast = what.get("contrast", ("t1", "t2")[seed % 2])
    drawn = draw_head(
        brain,
        seed=(8000, seed),
        shape=SHAPE,
        spacing=SPACING,
        contrast=contrast,
        variation=VARIATION,
        lesions=12,
        mri_noise=what.get("mri_noise"),
    )
    if "grey" not in what:
        return drawn
    grey, white = (float(drawn.uptake[drawn.tissue == t].mean()) for t in (Tissue.GREY, Tissue.WHITE))
    factor = np.where(np.isin(drawn.tissue, (Tissue.GREY, Tissue.DEEP)), what["grey"] * white / grey, 1)
    return replace(drawn, uptake=(drawn.uptake * factor).astype(np.float32))


def setting_of(rng: np.random.Generator) -> tuple[ScanSetting, float]:
    """Draw a scan, and its noise at an uptake of 2."""
    plane, slices = rng.uniform(2, 4, 2).tolist()
    across = float(rng.uniform(4, 8))
    along = float(np.clip(across * rng.uniform(0.9, 1.3), 4, 8))
    noise, kernel = float(rng.uniform(0.1, 0.3)), float(rng.uniform(4, 8))
    shift, turn = (rng.standard_normal(3) for _ in range(2))
    shift *= rng.uniform(0, 1.5) / np.linalg.norm(shift)
    turn *= rng.uniform(0, 1) / np.linalg.norm(turn)
    return ScanSetting(
        voxel_mm=(plane, plane, slices),
        fwhm_mm=(across, across, along),
        turn_deg=tuple(rng.uniform(-8, 8, 3).tolist()),  # type: ignore[arg-type]
        shift_mm=tuple(rng.uniform(-5, 5, 3).tolist()),  # type: ignore[arg-type]
        noise=noise / 2**0.5,
        noise_fwhm_mm=(kernel, kernel, 0.7 * kernel),
        misplaced_mm=tuple(shift.tolist()),
        misplaced_deg=tuple(turn.tolist()),
    ), noise


def run(brain: Brain, seed: int, scans: int, case: str, done: set[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Give what was found of the scans of a head that are not done."""
    left = [number for number in range(scans) if (seed, number) not in done]
    if not left:
        return
    phantom = head_of(brain, seed, CASES[case]).phantom(texture=TEXTURE)
    for number in left:
        setting, noise = setting_of(np.random.default_rng([seed, number]))
        made = scan(phantom, setting, seed=number)
        begun = time.process_time()
        found = measure_psf(
            torch.from_numpy(made.data),
            made.grid,
            torch.from_numpy(phantom.mri),
            phantom.grid,
            made.transform.tolist(),
        )
        yield {
            "head": seed,
            "scan": number,
            "contrast": CASES[case].get("contrast", ("t1", "t2")[seed % 2]),
            "truth": setting.fwhm_mm,
            "voxel": setting.voxel_mm,
            "noise": noise,
            "seconds": time.process_time() - begun,
        } | found._asdict()


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Return what is told of all cases, and of those of each contrast."""
    lines = ["| | cases | refused | error, rms mm | mean mm | worst mm | covered | half width, mean mm | CPU s |"]
    for name in ("all", *sorted({r["contrast"] for r in rows})):
        some = [r for r in rows if name in ("all", r["contrast"])]
        kept = [r for r in some if not r["refused"]]
        if not kept:
            lines.append(f"| {name} | {len(some)} | {len(some)} | | | | | | |")
            continue
        truth, found, low, high = (np.array([r[k] for r in kept]) for k in ("truth", "fwhm_mm", "low", "high"))
        error, covered = found - truth, (low <= truth) & (truth <= high)
        lines.append(
            f"| {name} | {len(some)} | {len(some) - len(kept)} | {np.sqrt((error**2).mean()):.2f} | {error.mean():.2f} "
            f"| {np.abs(error).max():.2f} | {covered.mean():.0%} | {(high - low).mean() / 2:.2f} "
            f"| {np.mean([r['seconds'] for r in some]):.1f} |"
        )
    return lines


def main() -> None:
    """Run what is not done, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--heads", type=int, default=40)
    parser.add_argument("--first", type=int, default=2)
    parser.add_argument("--scans", type=int, default=10)
    parser.add_argument("--case", choices=CASES, default="ordinary")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in options.log.read_text().splitlines()] if options.log.is_file() else []
    done = {(r["head"], r["scan"]) for r in rows}
    brain = icbm152(options.data / "volumes" / "mni152")
    for seed in range(options.first, options.first + options.heads):
        for row in run(brain, seed, options.scans, options.case, done):
            rows.append(row)
            with options.log.open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(f"{len(rows)} cases", file=sys.stderr, flush=True)
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()

"""Phantoms of heads under `auto`, against the truth told: RMSE of the restored PET, and the noise that is found.

    python tests/results/auto_volumes.py --data DATA --log FILE [--heads 5] [--first 0] [--spacing 2.5]

The scans are those of `volume_scenes`: RMSE in units of white matter, within the brain, with the true PSF and with the
one that the MRI tells, each with the noise measured. Of the noise: std at an uptake of 4, power of the signal with
which it grows, and kernel, beside the true ones; and the chi-square of the truth in tissue under the measured noise,
with the true one of the air (1 is right). Each head is a line of FILE, and those that it holds are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from results.volume_scenes import SETTINGS, SHAPE, SPACING, brain_mask, brains, head

from medfuse.physics.models.volume import VolumeModel
from medfuse.physics.operators.scanner import ScannerSampling
from medfuse.training.brains import Brain
from medfuse.training.scans import scan
from medfuse.volumes import measure_psf, narrowest_psf, restore_volume

_LEVEL, _TEXTURE, _STATED = 4.0, 0.08, 0.97
_TISSUE = 0.1  # of the highest, from which a voxel is tissue


def figures(brain: Brain, seed: int, spacing: float) -> dict[str, Any]:
    """Return what is found of one scan."""
    begun = time.process_time()
    contrast, setting = ("t1", "t2")[seed % 2], SETTINGS[seed % len(SETTINGS)]
    shape = tuple(round(n * SPACING / spacing) for n in SHAPE)
    drawn = head(brain, seed, contrast=contrast, shape=shape, spacing=spacing)  # type: ignore[arg-type]
    phantom = drawn.phantom(texture=_TEXTURE)
    made = scan(phantom, setting, seed=seed)
    pet, mri, place = torch.from_numpy(made.data), torch.from_numpy(phantom.mri), made.transform.tolist()
    found = measure_psf(pet, made.grid, mri, phantom.grid, place)
    least = narrowest_psf(made.grid, phantom.grid)
    psf = [max(_STATED * width, low) for width, low in zip(found.fwhm_mm, least, strict=True)]
    seconds, brain_of = time.process_time() - begun, brain_mask(phantom.labels)
    errors, noise = [], None
    for widths in (made.fwhm_mm, *([] if found.refused else [psf])):
        result = restore_volume(pet, made.grid, mri, phantom.grid, place, widths, None)
        off = (result.restored.numpy() - phantom.pet)[brain_of & result.measured.numpy()]
        errors.append(float(np.sqrt(np.mean(off**2))))
        noise = result.noise
    assert noise is not None
    operator = ScannerSampling(phantom.grid, made.grid, made.fwhm_mm, made.true_transform.tolist())
    clean = torch.from_numpy(made.clean)
    full = replace(noise, floor=made.noise.floor) if noise.kind == "poisson" else noise
    model = VolumeModel(operator, pet, full, signal=clean)
    level = torch.tensor([_LEVEL])
    return {
        "head": seed,
        "contrast": contrast,
        "psf": [found.fwhm_mm, made.fwhm_mm],
        "refused": found.refused,
        "rmse": errors,
        "std": [float(n.std(level)) for n in (noise, made.noise)],
        "growth": [n.growth if n.kind == "poisson" else 0.0 for n in (noise, made.noise)],
        "kernel": [noise.fwhm_mm, made.noise.fwhm_mm],
        "chi2": model.chi2_of(
            model.white((pet - clean) * model.inside), model.inside & (clean > _TISSUE * clean.max())
        ),
        "seconds": [seconds, time.process_time() - begun],
    }


def row(r: dict[str, Any]) -> str:
    """Return a row of the table."""
    widths, truth = (" x ".join(f"{w:.1f}" for w in part) for part in r["psf"])
    kernel = ", ".join(f"{a:.1f} of {b:.1f}" for a, b in zip(*r["kernel"], strict=True))
    told, *auto = r["rmse"]
    share = f"{auto[0]:.3f} ({100 * (auto[0] / told - 1):+.1f} %)" if auto else "refused"
    return (
        f"| {r['head']} | {r['contrast']} | {widths} of {truth} | {told:.3f} | {share} "
        f"| {100 * (r['std'][0] / r['std'][1] - 1):+.1f} % | {r['growth'][0]:.2f} of {r['growth'][1]:.2f} | {kernel} "
        f"| {r['chi2']:.2f} |"
    )


def main() -> None:
    """Run what is not done, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--spacing", type=float, default=2.5, help="of the MRI, mm (default: 2.5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in options.log.read_text().splitlines()] if options.log.is_file() else []
    brain, done = brains(options.data)[0], {r["head"] for r in rows}
    for seed in range(options.first, options.first + options.heads):
        if seed not in done:
            rows.append(figures(brain, seed, options.spacing))
            with options.log.open("a") as log:
                log.write(json.dumps(rows[-1]) + "\n")
    print(
        "| head | MRI | PSF, mm | RMSE, told | RMSE, auto | std of noise | its growth | its kernel, mm | chi-square |"
    )
    print("\n".join(map(row, rows)))


if __name__ == "__main__":
    main()

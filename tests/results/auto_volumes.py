"""Phantoms of heads under `auto`, against the truth told: RMSE of the restored PET, and the noise that is found.

    python tests/results/auto_volumes.py --data DATA [--heads 5] [--first 0]

The scans are those of `volume_scenes`: RMSE in units of white matter, within the brain, with the true PSF and with the
one that the MRI tells, each with the noise measured. Of the noise: std at an uptake of 4 and kernel over the true ones,
and the chi-square of the truth under the measured noise (1 is right).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from results.volume_scenes import SETTINGS, brain_mask, brains, head

from medfuse.physics.models.volume import VolumeModel
from medfuse.physics.operators.scanner import ScannerSampling
from medfuse.training.brains import Brain
from medfuse.training.scans import scan
from medfuse.volumes import measure_psf, narrowest_psf, restore_volume

_LEVEL, _TEXTURE, _STATED = 4.0, 0.08, 0.97


def row(brain: Brain, seed: int) -> str:
    """Return a row of the table."""
    contrast, setting = ("t1", "t2")[seed % 2], SETTINGS[seed % len(SETTINGS)]
    phantom = head(brain, seed, contrast=contrast).phantom(texture=_TEXTURE)
    made = scan(phantom, setting, seed=seed)
    pet, mri, place = torch.from_numpy(made.data), torch.from_numpy(phantom.mri), made.transform.tolist()
    found = measure_psf(pet, made.grid, mri, phantom.grid, place)
    least = narrowest_psf(made.grid, phantom.grid)
    psf = [max(_STATED * width, low) for width, low in zip(found.fwhm_mm, least, strict=True)]
    brain_of = brain_mask(phantom.labels)
    errors, noise = [], None
    for widths in (made.fwhm_mm, *([] if found.refused else [psf])):
        result = restore_volume(pet, made.grid, mri, phantom.grid, place, widths, None)
        off = (result.restored.numpy() - phantom.pet)[brain_of & result.measured.numpy()]
        errors.append(float(np.sqrt(np.mean(off**2))))
        noise = result.noise
    assert noise is not None
    operator = ScannerSampling(phantom.grid, made.grid, made.fwhm_mm, made.true_transform.tolist())
    clean = torch.from_numpy(made.clean)
    model = VolumeModel(operator, pet, noise, signal=clean)
    chi2 = model.chi2_of(model.white((pet - clean) * model.inside))
    std = [float(n.std(torch.tensor([_LEVEL]))) for n in (noise, made.noise)]
    kernel = [f"{a:.1f} of {b:.1f}" for a, b in zip(noise.fwhm_mm, made.noise.fwhm_mm, strict=True)]
    share = "refused" if found.refused else f"{errors[1]:.3f} ({100 * (errors[1] / errors[0] - 1):+.1f} %)"
    widths_of = " x ".join(f"{a:.1f}" for a in found.fwhm_mm)
    return (
        f"| {seed} | {contrast} | {widths_of} of {' x '.join(f'{w:g}' for w in setting.fwhm_mm)} | {errors[0]:.3f} "
        f"| {share} | {100 * (std[0] / std[1] - 1):+.1f} % | {', '.join(kernel)} | {chi2:.2f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--heads", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    brain = brains(options.data)[0]
    print("| head | MRI | PSF found, mm | RMSE, told | RMSE, auto | std of noise | kernel of noise, mm | chi-square |")
    for seed in range(options.first, options.first + options.heads):
        print(row(brain, seed), flush=True)


if __name__ == "__main__":
    main()

"""What filtering patches together with those of the slices beside is worth: `python tests/results/neighbours.py DATA`.

DATA is the folder with `volumes`. Thirteen slices of each of six MRIs, and of each a smooth image that takes the place
of a PET, get white noise as in the preset `noise`, cut off at both ends and stored in 8 bit. They are restored without
the filter, slice by slice, and as a volume; printed is a table of PSNR in dB of MRI / function, but for the outer three
slices at both ends, and of seconds of one thread. Five minutes of one core.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medfuse.bundles import load_spec
from medfuse.inferers import FusionInferer
from medfuse.physics import parse_degradation
from medfuse.pipeline import load_fusion

VOLUMES = (
    "mni152/t1.nii.gz",
    "spm12/single_subj_T1.nii.gz",
    "chris/chris_t1.nii.gz",
    "aanlib_normal/mri.nii.gz",
    "sts/STS_001/MR_T1_image.nii.gz",
    "sts/STS_008/MR_T1_image.nii.gz",
)
SLICES, ENDS = 13, 3


def truth_of(path: Path) -> tuple[Tensor, str]:
    """Return slices of an MRI, above the middle, and a smooth image beside them, **[1, 2, X, Y, Z]**; and voxels."""
    image = nib.as_closest_canonical(nib.load(path))
    volume = np.asarray(image.dataobj, np.float32)
    volume = np.clip(volume / np.percentile(volume[volume > volume.mean()], 99.8), 0, 1)
    first = max(volume.shape[2] // 2 + volume.shape[2] // 10 - SLICES // 2, 0)
    part = volume[..., first : first + SLICES]
    smooth = np.stack([gaussian_filter(one, 3) for one in part.transpose(2, 0, 1)], 2)
    size = " x ".join(f"{float(n):.2f}" for n in image.header.get_zooms()[:3])
    return torch.from_numpy(np.stack([part, smooth]))[None], size


def observed(truth: Tensor) -> Tensor:
    """Degrade by the preset, cut off, 8 bit."""
    generator = torch.Generator().manual_seed(0)
    parts = parse_degradation(load_spec("noise"))
    noisy = [part.simulate(truth[:, i : i + 1], generator) for i, part in enumerate(parts)]
    return (torch.cat(noisy, 1).clamp(0, 1) * 255).round() / 255


def psnr(found: Tensor, truth: Tensor) -> float:
    """Return the mean over slices."""
    inner = [(found[..., k], truth[..., k]) for k in range(ENDS, truth.shape[-1] - ENDS)]
    return float(np.mean([-10 * math.log10(float((a.clamp(0, 1) - b).square().mean())) for a, b in inner]))


def rows(data: Path) -> Iterator[str]:
    """Give the lines of the table."""
    fusion, spec = load_fusion(device="cpu"), load_spec("noise")
    volumes, told = fusion.inferer, fusion.inferer.told
    yield "| | voxel, mm | degraded | none filtered | slice by slice | volume | twice the patches | s a slice, each |"
    yield "|---|---|---|---|---|---|---|---|"
    for name in VOLUMES:
        truth, size = truth_of(data / "volumes" / name)
        given = observed(truth)
        found, seconds = [given], []
        for patches, whole in ((0, True), (told.patches, False), (told.patches, True), (2 * told.patches, True)):
            volumes.told = replace(told, patches=patches)
            inner = FusionInferer(kinds=volumes.kinds, **asdict(volumes.told))
            start = time.process_time()
            with torch.inference_mode():
                if whole:
                    result = volumes(given, fusion.network, degradation=spec)
                else:
                    parts = [inner(one, fusion.network, degradation=spec) for one in given.unbind(4)]
                    result = {key: torch.stack([part[key] for part in parts], 4) for key in ("source1", "source2")}
            seconds.append((time.process_time() - start) / truth.shape[4])
            found.append(torch.cat([result["source1"], result["source2"]], 1))
        cells = [" / ".join(f"{psnr(one[0, i], truth[0, i]):.2f}" for i in (0, 1)) for one in found]
        yield f"| {name} | {size} | {' | '.join(cells)} | {' '.join(f'{s:.2f}' for s in seconds)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    torch.set_num_threads(1)
    for row in rows(data):
        print(row, flush=True)


if __name__ == "__main__":
    main()

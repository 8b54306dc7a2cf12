"""How sure a PET on its own grid is, on phantoms of whole heads: `python tests/results/uncertainty_volumes.py DATA`.

DATA is the folder with `volumes/mni152`. Powers, terms and factors are found on scans drawn at random (PSF told
up to 10 % wrong, registered up to 2 mm off, textures of 8 and 15 %), the coverage is counted on scans of other heads,
of which one thing each is wrong. Regions are balls of one tissue of 1 to 100 ml, whole tissues, and the lesions, which
count as much as all others in the calibration. Printed as JSON, with the hash of the code that restored; `--write` puts
what was found into `medfuse/regions/calibration.json`. `--spacing MM` is the grid of the heads, `--network WEIGHTS`
restores with that network for volumes, which has a say up to 2.7 mm, in place of the rule alone. With `--keep FOLDER`
what was restored is kept there, so that another run of the same code goes on where one was ended. A scan takes 30 to
50 s of a core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results.calibrated import Regions, Voxels, held, kept, region_row, report, write
from results.volume_scenes import SETTINGS, SHAPE, SPACING, TEXTURES, brain_mask, brains, head

import medfuse
from medfuse.pipeline.facts import sha256
from medfuse.pipeline.native import DRAWS
from medfuse.regions.intervals import NATIVE, NETWORK, size_of, voxel_features
from medfuse.training.brains import Brain
from medfuse.training.scans import ScanSetting, random_setting, scan
from medfuse.transforms import ResampleToReference
from medfuse.volumes import Estimator, by_rule, load_estimator, restore_volume

CALIBRATION = "calibration"
TOLD: dict[str, dict[str, Any]] = {
    "as it is": {},
    "1 mm off": {"misplaced_mm": (1.0, 0.0, 0.0)},
    "2 mm off": {"misplaced_mm": (0.0, 2.0, 0.0)},
    "PSF 10 % wide": {"psf_error": 0.1},
    "PSF 10 % narrow": {"psf_error": -0.1},
}
VOLUMES_ML = (1.0, 3.0, 10.0, 30.0, 100.0)
_BALLS, _SAMPLED, _LEAST = 48, 6000, 16
_RESTORING = (
    *(
        f"volumes/{name}"
        for name in ("alignment", "bowsher", "classes", "coarse", "doubts", "gate", "proposals", "restore", "slices")
    ),
    *(f"physics/{name}" for name in ("models/lanczos", "models/volume", "scanner_noise", "space")),
    *(f"physics/operators/{name}" for name in ("base", "blur", "cosine", "scanner")),
)


@dataclass(frozen=True)
class Case:
    """A scan: what it counts as, the seed of its head, how it is taken, texture."""

    of: str
    seed: int
    setting: ScanSetting
    texture: float


def cases(calibrating: int, repeats: int) -> Iterator[Case]:
    """Give the scans: those of the calibration, then those of other heads."""
    for k in range(calibrating):
        yield Case(CALIBRATION, 100 + k, random_setting((17, k)), TEXTURES[k % 2])
    for repeat in range(repeats):
        for k, (of, told) in enumerate(TOLD.items()):
            texture = TEXTURES[(k + repeat) % 2]
            yield Case(of, 10 * repeat + k, SETTINGS[(k + repeat) % len(SETTINGS)].told(**told), texture)


def restored(brain: Brain, case: Case, spacing: float, estimator: Estimator) -> dict[str, np.ndarray]:
    """Return what is restored of a scan, on the grid of the MRI **[*image]**, fractions of its largest value.

    `x`, `alone`, `given` and `truth`; `draws` **[n, *image]**; `inside`, the voxels of the brain that were measured;
    tissues and lesions, `labels` and `marks`.
    """
    shape = tuple(round(n * SPACING / spacing) for n in SHAPE)
    one = head(brain, case.seed, shape=shape, spacing=spacing)
    phantom = one.phantom(without=(), texture=case.texture)
    taken = scan(phantom, case.setting, seed=case.seed)
    found = restore_volume(
        torch.from_numpy(taken.data), taken.grid, torch.from_numpy(phantom.mri), one.grid, taken.transform.tolist(),
        taken.fwhm_mm, taken.noise, draws=DRAWS, estimator=estimator,
    )  # fmt: skip
    place = taken.transform @ np.asarray(taken.grid.affine)
    pet = MetaTensor(torch.from_numpy(taken.data)[None], affine=place)
    given = ResampleToReference()(pet, MetaTensor(torch.from_numpy(phantom.mri)[None], affine=one.grid.affine))[0]
    top = float(taken.data.max())
    images = {"x": found.restored, "alone": found.alone, "given": given, "truth": phantom.pet, "draws": found.draws}
    inside = brain_mask(phantom.labels) & found.measured.numpy()
    scaled = {key: np.asarray(image, np.float32) / top for key, image in images.items()}
    return scaled | {"inside": inside, "labels": phantom.labels, "marks": phantom.marks}


def measured(case: Case, found: dict[str, np.ndarray], spacing: float) -> tuple[Voxels, Regions]:
    """Return errors and what is known of them, of voxels of the brain and of regions."""
    x, alone, given, truth, draws = (found[key] for key in ("x", "alone", "given", "truth", "draws"))
    inside, labels = found["inside"], found["labels"]
    std = size_of(draws)
    rng = np.random.default_rng(case.seed)
    places = rng.choice(np.flatnonzero(inside), _SAMPLED, replace=False)
    features = voxel_features(std, x, x - alone).reshape(-1, 3)[places]
    voxels = Voxels(case.of, np.abs(x - truth).ravel()[places], features, labels.ravel()[places])
    rows = [
        region_row(kind, region, error=x - truth, draws=draws, invented=x - alone, corrected=x - given, std=std)
        for kind, region in regions(labels, found["marks"], inside, spacing, rng)
    ]
    return voxels, Regions.of_rows(case.of, rows)


def regions(
    labels: np.ndarray, marks: np.ndarray, inside: np.ndarray, spacing: float, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """Give balls of one tissue about random places, then whole tissues, then lesions."""
    places = np.argwhere(inside)
    grids = np.indices(labels.shape)
    for volume in VOLUMES_ML:
        radius = (0.75 * 1000 * volume / np.pi) ** (1 / 3) / spacing
        for centre in places[rng.integers(len(places), size=_BALLS)]:
            far = sum((grid - c) ** 2 for grid, c in zip(grids, centre, strict=True))
            ball = inside & (far <= radius**2) & (labels == labels[tuple(centre)])
            if ball.sum() >= _LEAST:
                yield "ball", ball
    for tissue in np.unique(labels[inside]):
        yield "tissue", inside & (labels == tissue)
    for number in np.unique(marks[marks > 0]):
        lesion = inside & (marks == number)
        if lesion.sum() >= _LEAST:
            yield "lesion", lesion


def code_hash(maker: str) -> str:
    """Return the SHA-256 of the code that restores volumes whose PSF and noise are stated, by the rule or a network."""
    root = Path(medfuse.__file__).parent
    names = _RESTORING if maker == NATIVE else (*_RESTORING, "volumes/network")
    return hashlib.sha256(b"".join((root / f"{name}.py").read_bytes() for name in names)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--calibrating", type=int, default=4, help="scans of the calibration")
    parser.add_argument("--repeats", type=int, default=1, help="of the other scans")
    parser.add_argument("--spacing", type=float, default=3.0, help="mm")
    parser.add_argument("--network", type=Path, metavar="WEIGHTS")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    brain = brains(options.data)[0]
    maker, estimator, said = NATIVE, by_rule, {}
    if options.network:
        maker, estimator = NETWORK, load_estimator(options.network)
        said = {"weights_sha256": sha256(options.network)}
    voxels, regional, code = [], [], code_hash(maker)
    for case in cases(options.calibrating, options.repeats):
        name = f"{case.of} {case.seed} {options.spacing:g} mm {code[:12]} {said.get('weights_sha256', '')[:12]}"
        found = kept(options.keep, name.strip(), lambda case=case: restored(brain, case, options.spacing, estimator))
        one = measured(case, found, options.spacing)
        print(case.of, len(one[1].error), file=sys.stderr, flush=True)
        voxels.append(one[0])
        regional.append(one[1])
    calibrated, table = report(
        voxels, regional, calibrating=lambda of: of == CALIBRATION, homogeneous=True, lesions=True
    )
    if options.write:
        found = {key: value[""] for key, value in calibrated.items()}
        found |= {"code_sha256": code, "held": held(table, list(TOLD)), **said}
        write({f"{maker}_{key}": value for key, value in found.items()})
    json.dump({"code_sha256": code, **said, **table}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()

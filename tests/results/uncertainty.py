"""Calibrates how sure a restoration is, and checks it on others: `python tests/results/uncertainty.py BENCH DATA`.

BENCH is the folder of the instrument, with `dev/` and `phantom.py`; DATA that with `volumes/mni152`. The people of dev
are parted in two halves. On the first, and of the function on phantoms of the training as well, powers, terms and
factors of `medfuse.regions.intervals` are found; the coverage is counted on the second, and on the phantoms of the
instrument. Printed as JSON; `--write` puts what was found into `medfuse/regions/calibration.json`. With `--most N`, N
pairs of each set alone, to try it out; with `--keep FOLDER` what was restored is kept there, so that another run of the
same weights goes on where one was ended. All of it takes ten minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes, gaussian_filter, label
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results.calibrated import Regions, Voxels, held, kept, region_row, report, write
from results.images import load_module
from results.phantoms import REGIONS, SPEC

from medfuse.bundles import load_spec
from medfuse.fusion.rule import TwoScale
from medfuse.inferers.bootstrap import observed_again
from medfuse.io import read_image
from medfuse.physics import JointDegradation, data_alone, fit, parse_degradation
from medfuse.pipeline import Fusion, load_fusion
from medfuse.pipeline.certainty import kind_of
from medfuse.pipeline.facts import sha256
from medfuse.regions.intervals import KINDS, LEAST, level_of, voxel_features
from medfuse.training.phantoms import load_atlas, random_phantoms

PRESETS = ("noise", "blur", "composite")
FIRST_HALF = ("ct_21", "spect_36")  # people on whom the factors are found
FIRST, SECOND, TRAINING = "first half", "second half", "training phantoms"
DRAWS, RADII, PER_RADIUS, ALIKE = 6, (3, 5, 8, 13, 22, 36), 14, 0.12
ALL_OF_ONE = 6  # regions of a case that are a tissue wherever it lies
SAMPLED = 1500  # voxels of a case
PHANTOMS = {
    "phantoms": (0.0, 1.0),
    "MRI off by 1 px": (1.0, 1.0),
    "MRI off by 2 px": (2.0, 1.0),
    "PSF 10 % wide": (0.0, 1.1),
    "PSF 10 % narrow": (0.0, 0.9),
}
_LARGEST_DISC = 3000
_LESION = 10  # labels from which on a region of a phantom is a lesion
_WIDTHS = (1.0, 1.1, 0.9)


@dataclass(frozen=True)
class Case:
    """A pair of which the truth is known: set, name, truth and given **[1, 2, H, W]**, what was stated, labels."""

    of: str
    name: str
    truth: Tensor
    given: Tensor
    stated: JointDegradation
    labels: np.ndarray | None = None


def dev_cases(bench: Path, most: int | None) -> Iterator[Case]:
    names = sorted(path.stem for path in (bench / "dev" / "clean" / "fun").glob("*.png"))[:most]
    for preset in PRESETS:
        for name in names:
            truth, given = (_pair(bench / "dev" / folder, name) for folder in ("clean", f"deg/{preset}"))
            half = FIRST if name.startswith(FIRST_HALF) else SECOND
            yield Case(f"{half}, {preset}", name, truth, given, parse_degradation(load_spec(preset)))


def training_cases(data: Path, most: int | None) -> Iterator[Case]:
    """Give phantoms as the training draws them, PET blurred by 2.4 to 5.2 px FWHM, told right or 10 % wrong.

    Of every twelve, the tenth and twelfth are blurred without noise, and the eleventh is noisy without blur.
    """
    rng = np.random.default_rng(11)
    phantoms = random_phantoms(load_atlas(data / "volumes" / "mni152"), most or 24, seed=77)
    for number, phantom in enumerate(phantoms):
        images = [phantom.mri / phantom.mri.max(), phantom.pet / phantom.pet.max() / 1.1]
        lesions, _ = label(phantom.labels)
        truth = torch.from_numpy(np.stack(images).clip(0, 1)).float()[None]
        width, counts = rng.uniform(0.6, 1.3), float(np.exp(rng.uniform(np.log(20), np.log(200))))
        steps = {9: "blur", 10: "noise", 11: "blur"}.get(number % 12)
        given = _observed(truth, _specification(width, counts, steps), number)
        told = _specification(width * _WIDTHS[number % 3], counts, steps)
        marks = np.where(lesions > 0, lesions + _LESION, 0)
        yield Case(TRAINING, str(number), truth, given, parse_degradation(told), marks)


def phantom_cases(bench: Path, most: int | None) -> Iterator[Case]:
    maker = load_module(bench / "phantom.py")
    for of, (shift, width) in PHANTOMS.items():
        for case in range(min(most or 5, 5)):
            images, labels, _ = maker.case(256, np.random.default_rng([7, case]))
            rng = np.random.default_rng([3, case])
            texture = gaussian_filter(rng.normal(size=(256, 256)), 4)
            pet = images["pet"] / images["pet"].max() * (1 + 0.08 * texture / texture.std()) / 1.24
            mri = np.roll(images["mr"] / images["mr"].max(), round(shift), 0)
            truth = torch.from_numpy(np.stack([mri, pet])).float()[None]
            given = _observed(truth, SPEC, 50 + case)
            yield Case(of, str(case), truth, given, parse_degradation(_specification(width)), labels)


def restored(fusion: Fusion, case: Case, keep: Path | None = None) -> dict[str, np.ndarray]:
    """Return what is restored of a case: `x`, `std`, `alone` **[2, H, W]**, `draws` **[n, 2, H, W]**, `fused`."""
    name = f"{case.of} {case.name} {sha256(fusion.weights)[:12]}"
    return kept(keep, name, lambda: _restored(fusion, case))


def _restored(fusion: Fusion, case: Case) -> dict[str, np.ndarray]:
    found = fusion(case.given, degradation=case.stated, steps=1)
    x, std = (torch.cat([found[f"{name}{k}"] for k in (1, 2)], 1)[0].numpy() for name in ("source", "std"))
    models = fit(case.stated, case.given).models
    alone = np.stack([data_alone(model)[0, 0, : x.shape[1], : x.shape[2]].numpy() for model in models])
    draws = []
    for seed in range(DRAWS):
        restored = torch.from_numpy(x)[None]
        again = observed_again(restored, case.given, case.stated, torch.Generator().manual_seed(seed))
        again = fusion(again, degradation=case.stated, steps=1)
        draws.append(torch.cat([again["source1"], again["source2"]], 1)[0].numpy() - x)
    return {"x": x, "std": std, "alone": alone, "draws": np.stack(draws), "fused": found["fused"][0, 0].numpy()}


def measured(case: Case, found: dict[str, np.ndarray]) -> dict[str, tuple[Voxels, Regions | None]]:
    """Return errors and what is known of them, of the voxels of the head and of regions: of both sources, and fused."""
    x, std, alone, draws = (found[key] for key in ("x", "std", "alone", "draws"))
    error, invented = x - case.truth[0].numpy(), x - alone
    head = binary_fill_holes(gaussian_filter(x[0], 2.0) > 0.06)
    rng, result = np.random.default_rng(0), {}
    for k in (0, 1):
        inside = head & (x[k] > 0.01)
        places = rng.choice(np.flatnonzero(inside), SAMPLED)
        features = voxel_features(std[k], x[k], invented[k]).reshape(-1, 3)[places]
        kind = None if case.labels is None else np.array([_tissue(v) for v in case.labels.ravel()[places]])
        steps = kind_of(list(case.stated)[k])
        voxels = Voxels(case.of, np.abs(error[k]).ravel()[places], features, kind, steps)
        level = level_of(std[k][..., None], [draw[k][..., None] for draw in draws], [v[..., None] for v in x])
        changed: dict[str, Any] = {
            "error": error[k],
            "invented": invented[k],
            "corrected": x[k] - case.given[0, k].numpy(),
        }
        changed |= {"draws": draws[:, k], "std": std[k], "level": level}
        rows = [region_row(of, region, **changed) for of, region in _regions(inside, x[0], case.labels)]
        result[f"source {k + 1}"] = voxels, Regions.of_rows(case.of, rows, steps)
    truth = TwoScale()(case.truth[:, :1], case.truth[:, 1:])[0, 0].numpy()
    places = rng.choice(np.flatnonzero(head), SAMPLED)
    told = np.sqrt(sum(std[k] ** 2 for k, part in enumerate(case.stated) if part.steps) + 0 * std[0])
    error = np.abs(found["fused"] - truth).ravel()[places]
    result["fused"] = Voxels(case.of, error, np.log(told.ravel()[places] + 1e-6)[:, None]), None
    return result


def _tissue(label: int) -> str:
    return "lesion" if label >= _LESION else REGIONS.get(int(label), "other")


def _regions(inside: np.ndarray, mri: np.ndarray, labels: np.ndarray | None) -> Iterator[tuple[str, np.ndarray]]:
    """Give discs of one tissue, as the MRI shows it, about random places; all of such a tissue; whole labels."""
    rng = np.random.default_rng(1)
    places, (y, x) = np.argwhere(inside), np.mgrid[: mri.shape[0], : mri.shape[1]]
    for radius in RADII:
        for centre in places[rng.integers(len(places), size=PER_RADIUS)]:
            disc = inside & ((y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2)
            disc &= np.abs(mri - mri[tuple(centre)]) < ALIKE
            if disc.sum() >= LEAST:
                yield "disc", disc
    for place in places[rng.integers(len(places), size=ALL_OF_ONE)]:
        tissue = inside & (np.abs(mri - mri[tuple(place)]) < ALIKE)
        if tissue.sum() > _LARGEST_DISC:
            yield "tissue of the MRI", tissue
    for mark in () if labels is None else np.unique(labels[labels > 0]):
        if (region := labels == mark).sum() >= LEAST:
            yield ("lesion" if mark >= _LESION else "tissue"), region


def _specification(width: float = 1.0, counts: float | None = None, steps: str | None = None) -> dict[str, Any]:
    """Return that of the phantoms with another width of the PET's blur, other counts, and steps of a kind alone."""
    blur, noise = SPEC["source2"]
    wide = {"blur": {"sigma_px": blur["blur"]["sigma_px"] * width}}
    seen = noise if counts is None else {"noise": {"kind": "poisson", "counts": counts}}
    both = {"source1": SPEC["source1"], "source2": [wide, seen]}
    return {"version": 1, **{key: [step for step in part if steps in (None, *step)] for key, part in both.items()}}


def _observed(truth: Tensor, spec: dict[str, Any], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    parts = enumerate(parse_degradation(spec))
    return torch.cat([part.simulate(truth[:, i : i + 1], generator) for i, part in parts], 1)


def _pair(folder: Path, name: str) -> Tensor:
    images = [read_image(folder / kind / f"{name}.png").array for kind in ("mri", "fun")]
    side = max(image.shape[0] for image in images)
    images = [image.repeat(side // image.shape[0], 0).repeat(side // image.shape[1], 1) for image in images]
    return torch.from_numpy(np.stack(images)).float()[None]


def calibrated(cases: list[dict[str, tuple[Voxels, Regions | None]]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what was calibrated, and the tables: the MRI and the fused image on people alone.

    Of the MRI, phantoms of the training are easier than people; of the function they have the sharp edges that the dev
    set lacks.
    """
    known: dict[str, Any] = {what: {kind: [] for kind in KINDS} for what in ("voxel", "region")}
    tables = {}
    for k in (1, 2):
        voxels, regions = ([v[f"source {k}"][i] for v in cases] for i in (0, 1))
        own = (FIRST,) if k == 1 else (FIRST, TRAINING)
        found, tables[f"source {k}"] = report(voxels, regions, calibrating=lambda of, own=own: of.startswith(own))
        for what, fitted in found.items():
            for kind in KINDS:
                known[what][kind].append(fitted[kind])
    fused = [v["fused"][0] for v in cases]
    known["held"] = [held(tables[f"source {k}"], list(PHANTOMS)) for k in (1, 2)]
    found, tables["fused"] = report(fused, [], calibrating=lambda of: of.startswith(FIRST), plain=True)
    return known | {"fused": {"factors": found["voxel"][""]["factors"]}}, tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--most", type=int)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    fusion = load_fusion("pet_mri_fusion", device="cpu")
    cases = []
    sets = ((dev_cases, options.bench), (training_cases, options.data), (phantom_cases, options.bench))
    for number, case in enumerate(case for of, folder in sets for case in of(folder, options.most)):
        cases.append(measured(case, restored(fusion, case, options.keep)))
        print(number + 1, case.of, case.name, file=sys.stderr, flush=True)
    known, tables = calibrated(cases)
    if options.write:
        write(known | {"weights_sha256": sha256(fusion.weights)})
    json.dump(tables, sys.stdout, indent=1)


if __name__ == "__main__":
    main()

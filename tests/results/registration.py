"""From how far registration finds its way, and what it says where it does not.

Three bodies of known truth are turned about a random axis through their middle and shifted in a random direction, and
registered. `python tests/results/registration.py --data DATA` writes `docs/explanation/registration.md` and `.json`;
DATA holds `volumes/mni_sim`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medfuse.io import atomic_file, write_json
from medfuse.registration import register_rigid

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "registration.md"
TURNS, OFFSETS = ((0, 15), (15, 25), (25, 35)), ((0, 30), (30, 80))  # degrees, mm
RIGHT, CLOSE = 1.0, 2.0  # mm, of a result without, and with a warning
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_HEAD = """# Registration from far

Measured by `python tests/results/registration.py`. Three bodies of known truth are turned about a random axis through
their middle, shifted in a random direction, and registered with the default options. The error is the largest over the
body, in mm. A result is right below {right:g} mm, and below {close:g} mm if it carries a warning; else it must be
refused.

- `mni_sim`: simulated FDG PET (6 mm FWHM, Poisson noise, 4 mm voxels) of the ICBM152 brain, and its T1 at 2 mm.
- demo phantom: the `brain_phantom` of the bundle's demo; its PET has a hot and a cold lesion that the MRI has not.
- smooth head: ellipsoids with a wavy cortex, a ventricle beside the middle and a hot sphere; 3 mm and 4 mm voxels. It
  looks nearly the same from all sides.

Of {starts} starts, {right_share:.0%} were accepted below {right:g} mm; {warned} were accepted with a warning, {refused}
were refused, and {wrong} were accepted and wrong.

"""
_TAIL = """
"Halves" is the largest disagreement of two disjoint halves of the data, mm, which is what a user sees of the error.
Research use only.
"""


class Body(NamedTuple):
    """Two volumes and their affines, such that the right map is the identity."""

    fixed: np.ndarray
    fixed_affine: np.ndarray
    moving: np.ndarray
    moving_affine: np.ndarray

    def points(self) -> np.ndarray:
        """Return where the body is **[4, N]**, RAS mm."""
        index = np.argwhere(self.fixed > 0.1 * self.fixed.max())[::20]
        return np.asarray(self.fixed_affine @ np.c_[index, np.ones(len(index))].T)


def smooth_head() -> Body:
    """Return a head of ellipsoids: an MRI of 3 mm and a PET of 4 mm, both with noise."""
    rng = np.random.default_rng(1)
    mri, mri_affine = _ellipsoids((64, 64, 48), 3.0, (300, 60, 900, 600, 150, 750))
    pet, pet_affine = _ellipsoids((48, 56, 40), 4.0, (0, 1, 1, 2, 0.3, 4))
    pet = gaussian_filter(pet, 0.7) + rng.normal(0, 0.05, pet.shape)
    return Body(mri + rng.normal(0, 12, mri.shape) * (mri > 0), mri_affine, np.maximum(pet, 0), pet_affine)


def _ellipsoids(shape: tuple[int, int, int], spacing: float, values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return a head with the values of scalp, skull, white matter, cortex, ventricle and lesion; and its affine."""
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = [-(n - 1) / 2 * spacing for n in shape]
    x, y, z = np.einsum("ij,j...->i...", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]
    r = np.sqrt((x / 70) ** 2 + (y / 85) ** 2 + (z / 60) ** 2)
    inner = 0.72 + 0.08 * np.sin(x / 9) * np.cos(y / 11)
    where = (
        r < 1.08,
        r < 0.98,
        r < 0.92,
        (r < 0.92) & (r > inner),
        ((x - 12) / 9) ** 2 + ((y + 8) / 25) ** 2 + (z / 18) ** 2 < 1,
        (x - 25) ** 2 + (y - 30) ** 2 + (z - 10) ** 2 < 12**2,
    )
    volume = np.zeros(shape)
    for inside, value in zip(where, values, strict=True):
        volume[inside] = value
    return volume, affine


def load_body(folder: Path, mri: str, pet: str, truth: str) -> Body:
    """Load a pair, and bring the PET to where the transform that is its truth, PET to MRI, says that it belongs."""
    fixed, moving = (nib.load(folder / name) for name in (mri, pet))
    transform = sitk.ReadTransform(str(folder / truth))
    corners = np.array([[0, 0, 0], *np.eye(3)])
    mapped = np.array([transform.TransformPoint(corner.tolist()) for corner in corners])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = (mapped[1:] - mapped[0]).T, mapped[0]
    return Body(fixed.get_fdata(), fixed.affine, moving.get_fdata(), _LPS @ matrix @ _LPS @ moving.affine)


def bodies(data: Path | None = None) -> dict[str, Body]:
    """Return the bodies; without the research data, those that need none."""
    demo = ROOT / "bundles" / "pet_mri_fusion" / "demo" / "brain_phantom"
    found = {
        "demo phantom": load_body(demo, "mri.nii.gz", "pet.nii.gz", "truth_pet_to_mri.tfm"),
        "smooth head": smooth_head(),
    }
    if data is None:
        return found
    mni = data / "volumes" / "mni_sim"
    return {"mni_sim": load_body(mni, "t1_2mm.nii.gz", "pet_moved0_4mm.nii.gz", "moved0_to_t1.tfm"), **found}


def displacements(number: int, seed: int) -> Iterator[tuple[tuple[Any, Any], np.ndarray, np.ndarray]]:
    """Yield `number` times each range of turn and offset, with a rotation vector, degrees, and a shift, mm."""
    rng = np.random.default_rng(seed)
    for turn in TURNS:
        for offset in OFFSETS:
            for _ in range(number):
                axis, direction = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
                yield (turn, offset), rng.uniform(*turn) * axis, rng.uniform(*offset) * direction


def trial(body: Body, turn: np.ndarray, offset: np.ndarray) -> dict[str, Any]:
    """Displace the moving image by a rotation vector, degrees, about the middle, and a shift, mm; register it."""
    points = body.points()
    middle = points[:3].mean(1)
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_rotvec(turn, degrees=True).as_matrix()
    moved[:3, 3] = middle + offset - moved[:3, :3] @ middle
    result = register_rigid(body.fixed, body.fixed_affine, body.moving, moved @ body.moving_affine)
    return {
        "turn_deg": float(np.linalg.norm(turn)),
        "offset_mm": float(np.linalg.norm(offset)),
        "error_mm": float(np.linalg.norm(((result.matrix @ moved - np.eye(4)) @ points)[:3], axis=0).max()),
        **{k: v for k, v in result.to_dict().items() if k in _KEPT},
    }


_KEPT = ("accepted", "reasons", "warnings", "inconsistency", "score", "starts")


def verdict(found: Mapping[str, Any]) -> str:
    """Return what a trial was: right, warned, refused or wrong."""
    if not found["accepted"]:
        return "refused"
    if found["error_mm"] < RIGHT:
        return "right"
    return "warned" if found["error_mm"] < CLOSE and found["warnings"] else "wrong"


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the page that says what was found."""
    verdicts = [verdict(r) for r in results]
    rows = []
    for key in dict.fromkeys((r["body"], *map(tuple, r["range"])) for r in results):
        body, turn, offset = key
        chosen = [r for r in results if (r["body"], *map(tuple, r["range"])) == key]
        said = [verdict(r) for r in chosen]
        errors = [r["error_mm"] for r in chosen if r["accepted"]]
        rows.append(
            f"| {body} | {turn[0]} to {turn[1]} | {offset[0]} to {offset[1]} | {len(chosen)} | {said.count('right')} | "
            f"{said.count('warned')} | {said.count('refused')} | {said.count('wrong')} | "
            f"{f'{max(errors):.2f}' if errors else 'none'} | {max(r['inconsistency'] for r in chosen):.2f} |"
        )
    head = _HEAD.format(
        right=RIGHT,
        close=CLOSE,
        starts=len(results),
        right_share=verdicts.count("right") / len(results),
        **{name: verdicts.count(name) for name in ("warned", "refused", "wrong")},
    )
    titles = ("body", "turn, deg", "offset, mm", "starts", f"below {RIGHT:g} mm", "warned", "refused", "wrong")
    columns = (*titles, "largest error of accepted, mm", "halves, mm")
    lines = (f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *rows)
    return head + "\n".join(lines) + "\n" + _TAIL


def main() -> None:
    """Run all starts; write figures and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--number", type=int, default=4, help="starts of each body in each range (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the starts (default: 0)")
    options = parser.parse_args()
    results = [
        {"body": name, "range": where, **trial(body, turn, offset)}
        for name, body in bodies(options.data).items()
        for where, turn, offset in tqdm(list(displacements(options.number, options.seed)), desc=name)
    ]
    write_json(PAGE.with_suffix(".json"), results)
    with atomic_file(PAGE) as file:
        file.write(page(results).encode())
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

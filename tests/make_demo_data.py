"""Make the demo cases of the bundle from the public originals.

    python tests/make_demo_data.py STS_PATIENT_DIR ICBM152_DIR DEMO_DIR

STS_PATIENT_DIR: `MR_T1_image.nii.gz` and `PET_image.nii.gz` (SUV) of a patient of the IBSI soft-tissue-sarcoma set; the
    shipped case is patient STS_002, whose tumour takes up tracer in a rim round a cold middle, unseen in the T1.
ICBM152_DIR: `t1.nii.gz`, `gm.nii.gz`, `wm.nii.gz` of the ICBM152 2009a template, 8 bit, 1 mm.
DEMO_DIR: where the folders `sts_case`, `sts_noisy` and `brain_phantom` go.

`sts_noisy` are the slices of `sts_case` around its hottest voxel, with Rician noise added to the MRI, and the MRI as it
was beside it as the truth.

The brain phantom is a 2 mm T1 and a simulated FDG PET of a head that lies elsewhere: grey to white matter 4:1, a hot
lesion in white matter and a cold patch of cortex that the T1 does not show, 6 mm FWHM, Poisson noise, 4 mm voxels,
Bq/ml. Everything random comes from SEED; with the same versions of the libraries every run gives the same bytes.
"""

import argparse
import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from scipy import ndimage

SEED = 2009
ROTATION_DEG, SHIFT_MM = 8.0, 17.0
FWHM_MM = 6.0
NOISE = 60.0  # std of the noise of the noisy MRI, whose largest value is 1198
SLICES, PET_SLICES = slice(9, 18), slice(11, 28)  # of MRI and PET
GREY_COUNTS = 400  # expected counts of a 4 mm voxel of grey matter
WHITE_BQ_ML = 7000.0
HOT = {"centre": (-28.0, 22.0, 22.0), "radius": 6.0, "uptake": 7.0}
COLD = {"centre": (44.0, -54.0, 40.0), "radius": 13.0, "factor": 0.45}


def save(folder: Path, name: str, data: np.ndarray, affine: np.ndarray) -> None:
    """Write a NIfTI with a bare header, compressed without a time stamp; millimetres, both forms set."""
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    with (folder / f"{name}.nii.gz").open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(image.to_bytes())


def describe(folder: Path, **facts: object) -> None:
    (folder / "case.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")


def make_sts_case(patient: Path, folder: Path) -> None:
    """Keep voxels and grids as they are; store the integer MRI as int16 and drop the original headers."""
    mri = nib.load(patient / "MR_T1_image.nii.gz")
    pet = nib.load(patient / "PET_image.nii.gz")
    save(folder, "mri", np.rint(mri.get_fdata()).astype(np.int16), mri.affine)
    save(folder, "pet", pet.get_fdata(dtype=np.float32), pet.affine)
    describe(folder, aligned=True, pet_unit="SUV")


def make_sts_noisy(patient: Path, folder: Path) -> None:
    """Keep a few slices, add noise to the MRI, and keep it as it was as the truth."""
    for name, file, slices in (("mri", "MR_T1_image", SLICES), ("pet", "PET_image", PET_SLICES)):
        image = nib.load(patient / f"{file}.nii.gz").slicer[:, :, slices]
        values = image.get_fdata(dtype=np.float32)
        if name == "mri":
            save(folder, "truth_mri", np.rint(values).astype(np.int16), image.affine)
            first, second = NOISE * np.random.default_rng(SEED).standard_normal((2, *values.shape))
            values = np.rint(np.hypot(values + first, second)).astype(np.int16)
        save(folder, name, values, image.affine)
    describe(folder, aligned=True, pet_unit="SUV")


def ball(shape: tuple[int, ...], affine: np.ndarray, centre: tuple[float, ...], radius: float) -> np.ndarray:
    """Soft ball, 1 inside and 0 outside; the edge is about 2 mm wide."""
    index = np.linalg.inv(affine) @ (*centre, 1.0)
    offsets = [np.arange(n) - c for n, c in zip(shape, index[:3], strict=True)]
    distance = np.sqrt(sum(o**2 for o in np.meshgrid(*offsets, indexing="ij", sparse=True)))
    return 1 / (1 + np.exp(np.clip((distance - radius) / 0.5, -30, 30)))


def random_pose(rng: np.random.Generator, centre: np.ndarray) -> sitk.Euler3DTransform:
    """Rigid transform of exactly ROTATION_DEG about a random axis and SHIFT_MM in a random direction."""
    axis, direction = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
    versor = sitk.VersorRigid3DTransform()
    versor.SetRotation(axis.tolist(), float(np.deg2rad(ROTATION_DEG)))
    pose = sitk.Euler3DTransform()
    pose.SetMatrix(versor.GetMatrix())
    pose.SetCenter(centre.tolist())
    pose.SetTranslation((SHIFT_MM * direction).tolist())
    return pose


def make_brain_phantom(template: Path, folder: Path) -> None:
    """Simulate the PET on the template's 1 mm grid, then sample it where the moved patient would be scanned."""
    rng = np.random.default_rng(SEED)
    t1, gm, wm = (nib.load(template / f"{name}.nii.gz") for name in ("t1", "gm", "wm"))
    affine, brain = t1.affine, t1.get_fdata()
    grey, white = gm.get_fdata() / 255, wm.get_fdata() / 255

    coarse = ndimage.gaussian_filter(brain, 0.8)[::2, ::2, ::2]
    save(folder, "mri", np.rint(coarse).astype(np.uint8), affine @ np.diag([2, 2, 2, 1]))

    uptake = 4 * grey + white
    uptake += ball(uptake.shape, affine, HOT["centre"], HOT["radius"]) * (HOT["uptake"] - uptake)
    uptake *= 1 - (1 - COLD["factor"]) * ball(uptake.shape, affine, COLD["centre"], COLD["radius"])
    uptake = ndimage.gaussian_filter(uptake, FWHM_MM / 2.3548)

    # SimpleITK works in LPS: mirror the first two world axes of NIfTI's RAS. Pose: scanner point -> template point.
    middle = (affine @ (*((np.array(uptake.shape) - 1) / 2), 1))[:3] * (-1, -1, 1)
    pose = random_pose(rng, middle)
    matrix, shift, centre = (np.array(v) for v in (pose.GetMatrix(), pose.GetTranslation(), pose.GetCenter()))
    rigid, mirror = np.eye(4), np.diag([-1.0, -1, 1, 1])
    rigid[:3, :3] = matrix.reshape(3, 3)
    rigid[:3, 3] = centre + shift - rigid[:3, :3] @ centre
    scanner = affine @ np.diag([4, 4, 4, 1])
    to_template = np.linalg.inv(affine) @ mirror @ rigid @ mirror @ scanner
    shape = tuple(n // 4 + 1 for n in uptake.shape)
    sampled = ndimage.affine_transform(uptake, to_template[:3, :3], to_template[:3, 3], shape, order=1)
    counts = rng.poisson(np.maximum(sampled, 0) * GREY_COUNTS / 4)
    save(folder, "pet", (counts * (4 / GREY_COUNTS * WHITE_BQ_ML)).astype(np.float32), scanner)
    sitk.WriteTransform(pose, str(folder / "truth_pet_to_mri.tfm"))
    describe(folder, aligned=False, pet_unit="Bq/ml")


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make the demo cases from the public originals.")
    parser.add_argument("sts_patient", type=Path)
    parser.add_argument("icbm152", type=Path)
    parser.add_argument("demo", type=Path)
    options = parser.parse_args(args)
    for name, make, source in (
        ("sts_case", make_sts_case, options.sts_patient),
        ("sts_noisy", make_sts_noisy, options.sts_patient),
        ("brain_phantom", make_brain_phantom, options.icbm152),
    ):
        folder = options.demo / name
        folder.mkdir(parents=True, exist_ok=True)
        make(source, folder)


if __name__ == "__main__":
    main()

"""What commands and programs of the documentation are given: small, but valid, under the names that the pages use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from small_cases import write_pair
from test_batch_bids import write_session
from test_canary import scans
from test_ir_vis import write_pairs
from training.test_training import write_training_data

from medfuse.bundles import bundle_dir, share_dir


def write_places(folder: Path, *, infrared: bool = False, dicom: bool = False) -> None:
    """Write everything into a folder.

    `infrared` and `dicom` say what `DIR` is: images of `ir_vis_fusion`, or case folders of DICOM; else of NIfTI.
    """
    write_head(folder)
    write_study(folder / "STUDY")
    write_study(folder / "LATER", study="1.2.826.0.1.8", seed=1)
    shutil.copytree(folder / "STUDY", folder / "STUDIES" / "a")
    write_study(folder / "STUDIES" / "b", study="1.2.826.0.1.8")
    for seed, name in enumerate(("case_a", "case_b")):
        write_pair(folder / "INPUT" / name, seed=seed)
    write_dir(folder, infrared=infrared, dicom=dicom)
    for name in ("a", "b"):
        for kind in ("mri", "pet"):
            shutil.copy(folder / "INPUT" / "case_a" / f"{kind}.nii.gz", folder / f"{name}_{kind}.nii.gz")
    write_ct(folder / "INPUT" / "case_a" / "mri.nii.gz", folder / "a_ct.nii.gz")
    write_phantoms(folder)
    write_bids(folder / "BIDS")
    write_pet_bids(folder)
    write_images(folder)
    write_training_data(folder / "DATA")


def write_phantoms(folder: Path) -> None:
    """Write a uniform cylinder and a line source of 4 mm voxels, and an object that was scanned twice."""
    rng, at = np.random.default_rng(0), np.indices((44, 44, 12)) - np.reshape([21.5, 21.5, 5.5], (3, 1, 1, 1))
    radius = np.hypot(at[0], at[1])
    for name, image in (
        ("cylinder", 5.0 * (radius < 20)),
        ("line", 100 * np.exp(-0.5 * (radius / 0.7) ** 2)),
        ("first", 800.0 * (radius < 18)),
        ("again", 800.0 * (radius < 18)),
    ):
        noisy = image * (1 + 0.02 * rng.standard_normal(image.shape))
        nib.save(nib.Nifti1Image(noisy.astype(np.float32), np.diag([4.0, 4, 4, 1])), folder / f"{name}.nii.gz")


def write_ct(source: Path, path: Path) -> None:
    """Write an image as if it were a CT, of -1000 HU where it is 0."""
    image = nib.load(source)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) - 1000, image.affine), path)


def write_head(folder: Path) -> None:
    """Write a head whose PET must be registered, `mri.nii.gz` of 4 mm and `pet.nii.gz` in SUV, and a mask of it."""
    demo = bundle_dir("pet_mri_fusion") / "demo" / "brain_phantom"
    for name, step, factor in (("mri", 2, 1.0), ("pet", 1, 1e-3)):
        image = nib.load(demo / f"{name}.nii.gz")
        size = [n // step * step for n in image.shape]
        blocks = image.get_fdata(dtype=np.float32)[: size[0], : size[1], : size[2]]
        blocks = blocks.reshape(size[0] // step, step, size[1] // step, step, size[2] // step, step).mean((1, 3, 5))
        affine = image.affine @ np.diag([step, step, step, 1.0])
        affine[:3, 3] += image.affine[:3, :3] @ np.full(3, (step - 1) / 2)
        nib.save(nib.Nifti1Image(factor * blocks, affine), folder / f"{name}.nii.gz")


def write_study(folder: Path, *, study: str = "1.2.826.0.1.7", seed: int = 0) -> None:
    """Write an MRI and a PET of one patient and one world as DICOM, the PET in Bq/ml."""
    r = np.linalg.norm((np.indices((6, 40, 36)) - np.reshape((2.5, 19.5, 17.5), (3, 1, 1, 1))) / 14, axis=0)
    noise = np.random.default_rng(seed).uniform(0, 40, r.shape)
    mri = scans.Scan(stored=(900.0 * (r < 1) + noise).astype(np.int16), series="1.2.840.1.1")
    uptake = (20000.0 * (r < 1) + 20 * noise)[:, ::2, ::2].astype(np.int16)
    pet = mri.change(modality="PT", stored=uptake, spacing=(3.0, 5.0, 3.0), slopes=(1.0,) * 6, series="1.2.840.1.2")
    for name, scan in (("MR", mri), ("PET", pet)):
        slices = scan.slices()
        for one in slices:
            one.StudyInstanceUID = study
            for agent in one.get("RadiopharmaceuticalInformationSequence", []):
                agent.Radiopharmaceutical = "FDG"
        scans.write(slices, folder / name)
    affine = mri.affine
    mask = np.zeros((36, 40, 6), np.uint8)
    mask[14:22, 16:24, 2:4] = 1
    nib.save(nib.Nifti1Image(mask, affine), folder.parent / "tumour.nii.gz")
    (folder.parent / "tumour.tsv").write_text("index\tname\n1\tTumour\n", encoding="utf-8")


def write_dir(folder: Path, *, infrared: bool, dicom: bool) -> None:
    """Write `DIR`, and the images of visible and infrared."""
    write_pairs(folder / "PAIRS")
    for name in ("visible", "infrared"):
        shutil.copytree(folder / "PAIRS" / name, folder / name.upper())
    if infrared:
        (folder / "PAIRS").rename(folder / "DIR")
        return
    shutil.rmtree(folder / "PAIRS")
    if not dicom:
        shutil.copytree(folder / "INPUT", folder / "DIR")
        return
    for name, to in (("MR", "mri"), ("PET", "pet")):
        shutil.copytree(folder / "STUDY" / name, folder / "DIR" / "case_a" / to)
    (folder / "DIR" / "case_a" / "case.json").write_text("{}", encoding="utf-8")


def write_bids(root: Path) -> None:
    """Write two subjects with a session `baseline` each."""
    for seed, name in enumerate(("sub-01", "sub-02")):
        write_session(root, f"{name}_ses-baseline", seed=seed)
    description = {"Name": "Example", "BIDSVersion": "1.10.1", "License": "CC0", "Authors": ["Nobody"]}
    (root / "dataset_description.json").write_text(json.dumps(description), encoding="utf-8")
    (root / "README").write_text("Two subjects that were made up, for an example of a dataset.\n" * 5, encoding="utf-8")
    (root / "trc-FDG_pet.json").write_text(json.dumps({"Units": "Bq/mL"}), encoding="utf-8")


def write_pet_bids(folder: Path) -> None:
    """Write two subjects with a dynamic PET, one with two reconstructions, what PETPrep made of one, and an atlas."""
    root, shape, affine = folder / "PETBIDS", (20, 24, 6), np.diag([6.0, 6.0, 8.0, 1.0])
    r = np.linalg.norm((np.indices(shape) - np.reshape((9.5, 11.5, 2.5), (3, 1, 1, 1))) / 9, axis=0)
    head = (r < 1) * (2 + np.sin(np.indices(shape)[0])).astype(np.float32)

    def save(name: str, values: np.ndarray) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values.astype(np.float32), affine), folder / name)

    frames = np.stack([1000.0 * k * head + 10 for k in range(1, 6)], axis=-1)
    for subject, names in (("01", ("trc-FDG", "trc-PIB")), ("02", ("trc-FDG_rec-acdyn_run-1", "trc-PIB_run-1"))):
        save(f"PETBIDS/sub-{subject}/anat/sub-{subject}_T1w.nii.gz", 400 * head + 5)
        for name in names:
            save(f"PETBIDS/sub-{subject}/pet/sub-{subject}_{name}_pet.nii.gz", frames)
    made = "PETBIDS/derivatives/petprep/sub-01"
    save(f"{made}/anat/sub-01_desc-preproc_T1w.nii.gz", 400 * head + 5)
    save(f"{made}/pet/sub-01_trc-FDG_space-T1w_desc-preproc_pet.nii.gz", frames)
    save("ATLAS/sub-01_dseg.nii.gz", 1 + np.arange(20)[:, None, None] // 10 + 0 * head)
    sidecar = {
        "Units": "Bq/mL", "TracerRadionuclide": "F18", "InjectedRadioactivity": 370,
        "InjectedRadioactivityUnits": "MBq", "TimeZero": "13:04:42",
        "ScanStart": 0, "InjectionStart": 0, "FrameTimesStart": [0, 30, 60, 120, 420],
        "FrameDuration": [30, 30, 60, 300, 600], "ImageDecayCorrected": True, "ImageDecayCorrectionTime": 0,
        "AttenuationCorrection": "CT",
    }  # fmt: skip
    (root / "pet.json").write_text(json.dumps(sidecar), encoding="utf-8")
    (root / "participants.tsv").write_text("participant_id\tweight\nsub-01\t70\nsub-02\t82\n", encoding="utf-8")
    (root / "dataset_description.json").write_text('{"Name": "Dynamic", "BIDSVersion": "1.10.1"}', encoding="utf-8")
    about = '{"Name": "PETPrep", "BIDSVersion": "1.10.1", "DatasetType": "derivative"}'
    (root / "derivatives/petprep/dataset_description.json").write_text(about, encoding="utf-8")
    (folder / "filter.json").write_text('{"pet": {"tracer": "FDG"}}', encoding="utf-8")


def write_images(folder: Path) -> None:
    """Write folders of 2-D images of three names, a table of their pairs, and one of their subjects."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:64, 0:64]
    names = ("s1", "s2", "s3")
    for k, name in enumerate(names):
        mri = 40 + 150.0 * ((y - 32) ** 2 + (x - 28) ** 2 < 500) + 4 * k
        pet = 20 + 200.0 * ((y - 36) ** 2 + (x - 34) ** 2 < 200)
        noisy = {"MRI": mri, "PET": pet, "D1": mri, "D2": pet}
        clean = {"CLEAN_MRI": mri, "CLEAN_PET": pet, "R1": mri, "R2": pet, "FUSED": (mri + pet) / 2}
        for kind, image in (*noisy.items(), *clean.items()):
            noise = rng.normal(0, 14 if kind in noisy else 1, image.shape)
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray((image + noise).clip(0, 255).round().astype(np.uint8)).save(folder / kind / f"{name}.png")
    rows = ["source1\tsource2\tname", *(f"MRI/{n}.png\tPET/{n}.png\tpair_{n}" for n in names)]
    (folder / "pairs.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    rows = ["name\tsubject", *(f"{n}\tsubject{k // 2}" for k, n in enumerate(names))]
    (folder / "subjects.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def copy_shared(folder: Path) -> None:
    """Copy the bundles and configurations: some commands write into a bundle."""
    for name in ("bundles", "configs"):
        shutil.copytree(share_dir() / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "eval"))

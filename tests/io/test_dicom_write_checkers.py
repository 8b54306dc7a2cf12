"""What others say of our DICOM: `dciodvfy` of its conformity, `dcm2niix` of its values and geometry."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from medfuse import cli
from medfuse.io import DicomReader

pytestmark = pytest.mark.full
KINDS = {"pet_restored": 28, "fused": 1, "fused_rgb": 28, "fused_rgb_multiframe": 1}


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; its Debian package is in .ci/run")
    return path


def errors(path: Path) -> list[str]:
    """Return the errors that dciodvfy finds; warnings are matters of taste, and of its tables' age."""
    done = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
    assert done.stderr, "it names at least the kind of object"
    return [line for line in done.stderr.splitlines() if line.startswith(("Error", "Abort"))]


def convert(folder: Path, out: Path) -> nib.Nifti1Image:
    """Return what dcm2niix makes of a series, turned back to our order of rows."""
    out.mkdir(parents=True)
    command = [tool("dcm2niix"), "-z", "n", "-b", "n", "-f", "image", "-o", str(out), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (path,) = out.glob("*.nii")
    image = nib.load(path)
    turn = np.diag([1.0, -1.0, 1.0, 1.0])
    turn[1, 3] = image.shape[1] - 1
    return nib.Nifti1Image(np.asanyarray(image.dataobj)[:, ::-1], image.affine @ turn)


def values(image: nib.Nifti1Image) -> np.ndarray:
    data = np.asanyarray(image.dataobj)
    return np.stack([data[c] for c in "RGB"], axis=-1) if data.dtype.fields else data


def compare(folder: Path, case: str, out: Path) -> None:
    """Compare every series of a case with its NIfTI."""
    for kind in KINDS:
        found = convert(folder / "dicom" / kind, out / kind)
        truth = nib.load(folder / f"{case}_{kind.removesuffix('_multiframe')}.nii.gz")
        assert found.shape == truth.shape
        assert np.abs(found.affine - truth.affine).max() < 1e-4
        image = pydicom.dcmread(min((folder / "dicom" / kind).iterdir()), stop_before_pixels=True)
        quantum = float(image.get("RescaleSlope") or 0)
        error = np.abs(values(found).astype(np.float64) - values(truth)).max()
        assert error <= 0.5 * quantum + 1e-7 * np.abs(values(truth)).max()  # its slope is a float32


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory) -> Path:
    """Return the folder of a real study that one command has fused, from DICOM to DICOM."""
    out, study = tmp_path_factory.mktemp("real"), shared_data / "volumes" / "dicom" / "STS_008"
    assert cli.main(["fuse", "--dicom", str(study), "--out", str(out), "--case", "sts"]) == 0
    return out / "sts"


@pytest.mark.parametrize("kind", KINDS)
def test_dciodvfy_finds_no_error_in_the_real_study(real, kind):
    paths = sorted((real / "dicom" / kind).iterdir())
    assert len(paths) == KINDS[kind]
    for path in paths:
        assert errors(path) == []


def test_dcm2niix_finds_the_real_study_again(real, tmp_path):
    compare(real, "sts", tmp_path)


def test_the_real_study_comes_back_in_its_unit_and_world(real, shared_data):
    study = shared_data / "volumes" / "dicom" / "STS_008"
    source = DicomReader(modality="MR").get_data([study])[1]
    volume, meta = DicomReader().get_data([real / "dicom" / "pet_restored"])
    assert meta["unit"] == "SUV"
    assert meta["frame_of_reference"] == source["frame_of_reference"]
    assert np.abs(meta["affine"] - source["affine"]).max() < 1e-4
    truth = nib.load(real / "sts_pet_restored.nii.gz").get_fdata()
    assert np.abs(volume - truth).max() <= 0.501 * truth.max() / 32767
    assert json.loads((real / "sts.json").read_text())["sources"]["pet"]["unit"] == "SUV"


@pytest.fixture
def complete():
    """Return a function that gives a test's images all elements of type 1 that they lack."""

    def completed(datasets: list[Dataset]) -> list[Dataset]:
        for dataset in datasets:
            dataset.StudyTime, dataset.BodyPartExamined, dataset.PatientSex = "103000", "BRAIN", "M"
            if dataset.Modality == "PT":
                dataset.DecayFactor, dataset.FrameReferenceTime = "1.01", "1000"
                dataset.CountsSource, dataset.SeriesType = "EMISSION", ["WHOLE BODY", "IMAGE"]
        return datasets

    return completed


@pytest.mark.parametrize("suv", ["none", "bw", "lbm", "bsa"])
@pytest.mark.parametrize("options", [[], ["--deidentified"]], ids=["named", "deidentified"])
def test_oblique_grids_pass_both(tmp_path, mri, pet, save, complete, suv, options):
    save(complete(mri.slices()), tmp_path / "study" / "mr")
    save(complete(pet.change(slopes=(1.0, 2.0, 0.5, 3.0, 1.5)).slices()), tmp_path / "study" / "pt")
    call = ["fuse", "--dicom", str(tmp_path / "study"), "--out", str(tmp_path), "--case", "x", "--steps", "1"]
    assert cli.main([*call, "--suv", suv, *options]) == 0
    for path in (tmp_path / "x" / "dicom").rglob("*.dcm"):
        assert errors(path) == []
    compare(tmp_path / "x", "x", tmp_path / "nii")


def test_an_enhanced_pet_passes_as_a_parametric_map(tmp_path, mri, pet, save, complete):
    save(complete(mri.slices()), tmp_path / "study" / "mr")
    (enhanced,) = complete([pet.enhanced()])
    save(enhanced, tmp_path / "study" / "pt")
    call = ["fuse", "--dicom", str(tmp_path / "study"), "--out", str(tmp_path), "--case", "x", "--steps", "1"]
    assert cli.main(call) == 0
    (path,) = (tmp_path / "x" / "dicom" / "pet_restored").iterdir()
    assert errors(path) == []
    compare(tmp_path / "x", "x", tmp_path / "nii")

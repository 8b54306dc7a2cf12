"""PET-BIDS, static and dynamic, from end to end: sidecars laid out as in bids-examples pet001 to pet005."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from medfuse import cli, fuse
from medfuse.bundles import share_dir
from medfuse.errors import BundleError, ImageError
from medfuse.io import discover
from medfuse.io.bids_derivatives import find_derivatives, with_derivatives
from medfuse.io.labels import label_file, label_names
from medfuse.io.pet_sidecar import read_pet_sidecar

VALIDATOR = Path(sys.executable).parent / "bids-validator-deno"
ALIGNED = share_dir() / "configs" / "run" / "aligned.yaml"
SHAPE, AFFINE = (20, 24, 10), np.diag([6.0, 6.0, 8.0, 1.0])
STARTS, DURATIONS = [0, 30, 60, 120, 420], [30, 30, 60, 300, 600]
PET001 = {  # dynamic, of the HRRT
    "Modality": "PET", "Manufacturer": "Siemens", "ManufacturersModelName": "HRRT", "BodyPart": "Brain",
    "Units": "Bq/ml", "TracerName": "CIMBI-36", "TracerRadionuclide": "C11", "TracerMolecularWeight": 380.28,
    "TracerMolecularWeightUnits": "g/mol", "InjectedRadioactivity": 573, "InjectedRadioactivityUnits": "MBq",
    "InjectedMass": 0.62, "InjectedMassUnits": "ug", "SpecificRadioactivity": 353.51,
    "SpecificRadioactivityUnits": "GBq/ug", "ModeOfAdministration": "bolus", "MolarActivity": 1.62,
    "MolarActivityUnits": "nmol", "MolarActivityMeasTime": "12:59:00", "TimeZero": "13:04:42", "ScanStart": 0,
    "InjectionStart": 0, "FrameTimesStart": STARTS, "FrameDuration": DURATIONS, "AcquisitionMode": "list mode",
    "ImageDecayCorrected": True, "ImageDecayCorrectionTime": 0, "ReconMatrixSize": [*SHAPE, 5],
    "ImageVoxelSize": [6, 6, 8], "ReconMethodName": "3D-OSEM-PSF", "ReconMethodParameterLabels": ["subsets"],
    "ReconMethodParameterUnits": ["none"], "ReconMethodParameterValues": [16], "ReconFilterType": "none",
    "ReconFilterSize": 0, "AttenuationCorrection": "[137Cs]transmission scan-based",
}  # fmt: skip
PET005 = {k: v for k, v in PET001.items() if k not in ("Units", "InjectedRadioactivityUnits")} | {
    "Unit": "Bq/mL", "InjectedRadioactivityUnit": "MBq", "InjectedRadioactivity": 624.3,
    "DecayCorrectionFactor": [2 ** ((s + d / 2) / 1221.6) for s, d in zip(STARTS, DURATIONS, strict=True)],
}  # fmt: skip
STATIC = PET001 | {
    "TracerName": "FDG", "TracerRadionuclide": "F18", "InjectedRadioactivity": 370, "FrameTimesStart": [3600],
    "FrameDuration": [1200], "ImageDecayCorrectionTime": 3600, "ReconMatrixSize": [*SHAPE, 1],
}  # fmt: skip


def head(shift: float = 0.0) -> np.ndarray:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    x = x - shift
    inside = (x / 0.7) ** 2 + (y / 0.8) ** 2 + (z / 0.9) ** 2 < 1
    return gaussian_filter(inside * (1 + 0.6 * np.sin(5 * x) * np.cos(4 * y + 1)), 0.6).astype(np.float32)


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(np.float32), affine), path)


def frames(shift: float = 0.0) -> np.ndarray:
    """Five frames of a tracer that washes in; the last one shifted, in parts of the field of view."""
    return np.stack([*(2000.0 * (k + 1) * head() + 50 for k in range(4)), 10000.0 * head(shift) + 50], axis=-1)


def write(root: Path, case: str, name: str, values: np.ndarray, sidecar: dict) -> None:
    place = root / case.replace("_", "/")
    save(place / "anat" / f"{case}_T1w.nii.gz", 500 * head() + 20)
    save(place / "pet" / f"{case}_{name}.nii.gz", values)
    text = json.dumps(sidecar)
    (place / "pet" / f"{case}_{name}.json").write_text(("\ufeff" if case == "sub-02" else "") + text, encoding="utf-8")


@pytest.fixture
def raw(tmp_path) -> Path:
    root = tmp_path / "raw"
    write(root, "sub-01_ses-01", "pet", frames(), PET001)
    write(root, "sub-02", "task-eyes_pet", frames(0.15), PET005)
    write(root, "sub-03", "trc-FDG_rec-acstat_pet", 9000 * head() + 30, STATIC)
    write(root, "sub-03", "trc-FDG_rec-acdyn_pet", frames(), PET001)
    about = {"Name": "CANARY", "BIDSVersion": "1.10.1", "Authors": ["A B", "C D"]}
    (root / "dataset_description.json").write_text(json.dumps(about))
    rows = ["participant_id\tsex\tweight", "sub-01\tM\t58", "sub-02\tF\t83", "sub-03\tF\t70"]
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    (root / "participants.json").write_text(json.dumps({"weight": {"Description": "body", "Units": "kg"}}))
    return root


def record_of(out: Path, case: str) -> dict:
    return json.loads((out / case.replace("_", "/") / "medfuse" / f"{case}.json").read_text())


def batch(root: Path, out: Path, *words: str) -> int:
    options = ["--steps", "1", "--device", "cpu", "--overlay", str(ALIGNED)]
    return cli.main(["batch", str(root), str(out), "participant", *options, *words])


def test_static_and_dynamic_pet_become_suv(quick, raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert batch(raw, out, "--rec", "acstat") == 1  # which the others are not
    assert "sub-01_ses-01 failed" in capsys.readouterr().err
    pet = record_of(out, "sub-03")["sources"]["pet"]
    assert pet["unit"] == "SUV"
    decayed = 370e6 * 2 ** (-3600 / (109.77 * 60))
    assert pet["suv"]["factor"] == pytest.approx(70000 / decayed)
    restored = nib.load(out / "sub-03/pet/sub-03_trc-FDG_rec-acstat_space-T1w_desc-restored_pet.nii.gz").get_fdata()
    assert np.allclose(restored, (9000 * head() + 30) * 70000 / decayed, rtol=1e-4)
    assert batch(raw, out, "--participant-label", "01", "02", "--frames", "2-7min") == 0
    for case, weight, dose in (("sub-01_ses-01", 58, 573e6), ("sub-02", 83, 624.3e6)):
        pet = record_of(out, case)["sources"]["pet"]
        assert pet["suv"]["factor"] == pytest.approx(1000 * weight / dose)
        assert (pet["frames"]["frames"], pet["frames"]["start_s"], pet["frames"]["end_s"]) == ("4", 120, 420)
    name = "sub-02/pet/sub-02_task-eyes_space-T1w_desc-restored_pet"
    assert np.allclose(nib.load(out / f"{name}.nii.gz").get_fdata(), frames()[..., 3] * 83000 / 624.3e6, rtol=1e-4)


def test_the_average_of_all_frames_warns_of_motion(quick, raw, tmp_path):
    out = tmp_path / "out"
    assert batch(raw, out, "--participant-label", "02") == 0
    record = record_of(out, "sub-02")
    shown = record["sources"]["pet"]["frames"]
    assert shown["average"] == "weighted by duration"
    assert shown["motion_mm"]["against"] == "5"
    moved = 0.15 * 6 * (SHAPE[0] - 1) / 2
    assert max(shown["motion_mm"]["of"].values()) == pytest.approx(moved, abs=2.0)
    assert any("the head probably moved during the scan" in text for text in record["warnings"])
    assert any("the average of its 5 frames" in text for text in record["warnings"])


def test_a_change_of_the_sidecar_or_the_choice_is_a_new_case(quick, raw, tmp_path, capsys):
    out, words = tmp_path / "out", ["--participant-label", "01", "--resume", "--frames"]
    assert batch(raw, out, *words, "5") == 0
    assert batch(raw, out, *words, "5") == 0
    assert "0 fused, 1 done before" in capsys.readouterr().out
    assert batch(raw, out, *words, "4") == 0
    assert "1 fused, 0 done before" in capsys.readouterr().out
    (raw / "participants.tsv").write_text("participant_id\tweight\nsub-01\t61\n")
    assert batch(raw, out, *words, "4") == 0
    assert "1 fused, 0 done before" in capsys.readouterr().out
    assert record_of(out, "sub-01_ses-01")["sources"]["pet"]["suv"]["factor"] == pytest.approx(61000 / 573e6)


def test_python_and_fuse_take_the_same_choice(raw, tmp_path):
    place = raw / "sub-01/ses-01"
    pet, mri = place / "pet/sub-01_ses-01_pet.nii.gz", place / "anat/sub-01_ses-01_T1w.nii.gz"
    result = fuse(pet, mri, aligned=True, frames="decay:3-5", device="cpu", steps=1)
    weights = [2 ** (-s / 1221.6) - 2 ** (-(s + d) / 1221.6) for s, d in list(zip(STARTS, DURATIONS, strict=True))[2:]]
    expected = np.average(frames()[..., 2:], axis=3, weights=weights) * 58000 / 573e6
    assert np.allclose(result.sources[1].numpy(), expected, rtol=1e-4)
    assert result.units[1] == "SUV"
    with pytest.raises(ImageError, match="from 1 to 5, got 6"):
        fuse(pet, mri, aligned=True, frames="6", device="cpu")
    words = ["fuse", "--pet", str(pet), "--mri", str(mri), "--out", str(tmp_path / "one"), "--aligned", "--steps", "1"]
    assert cli.main([*words, "--frames", "first"]) == 2
    assert cli.main([*words, "--frames", "6"]) == 2
    assert not (tmp_path / "one").exists()


class TestDerivatives:
    @pytest.fixture
    def petprep(self, raw):
        """Return what PETPrep leaves of sub-01: T1w, mask, and the PET in its space, without dose or unit."""
        root = raw / "derivatives" / "petprep"
        stem = root / "sub-01/ses-01"
        save(stem / "anat/sub-01_ses-01_desc-preproc_T1w.nii.gz", 500 * head() + 20)
        save(stem / "anat/sub-01_ses-01_desc-brain_mask.nii.gz", (head() > 0.3).astype(np.float32))
        save(stem / "anat/sub-01_ses-01_space-MNI152NLin2009cAsym_desc-preproc_T1w.nii.gz", head())
        save(stem / "pet/sub-01_ses-01_space-T1w_desc-preproc_pet.nii.gz", frames())
        kept = {k: PET001[k] for k in ("FrameTimesStart", "FrameDuration")}
        (stem / "pet/sub-01_ses-01_space-T1w_desc-preproc_pet.json").write_text(json.dumps(kept))
        about = {
            "Name": "PETPrep",
            "BIDSVersion": "1.10.1",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "PETPrep"}],
        }
        (root / "dataset_description.json").write_text(json.dumps(about))
        return root

    def case(self, raw):
        return next(c for c in discover(raw, participants=["01"]).cases)

    def test_a_pet_in_the_space_of_the_t1w_is_not_registered_again(self, quick, raw, petprep, tmp_path):
        out = tmp_path / "out"
        words = ["--steps", "1", "--device", "cpu", "--participant-label", "01", "--derivatives", "petprep"]
        assert cli.main(["batch", str(raw), str(out), "participant", *words, "--frames", "5"]) == 0
        record = record_of(out, "sub-01_ses-01")
        assert record["registration"]["reasons"] == ["skipped: the case says aligned"]
        assert record["mask_sha256"] is not None
        pet = record["sources"]["pet"]
        assert pet["unit"] == "SUV"  # by the raw sidecar
        assert pet["suv"]["factor"] == pytest.approx(58000 / 573e6)
        assert [region["label"] for region in pet["regions"]] == [None, 1]
        sidecar = json.loads((out / "sub-01/ses-01/pet/sub-01_ses-01_space-T1w_desc-restored_pet.json").read_text())
        assert sidecar["Sources"][0].endswith(
            "petprep/sub-01/ses-01/pet/sub-01_ses-01_space-T1w_desc-preproc_pet.nii.gz"
        )

    @pytest.mark.parametrize("told", [{}, {"DatasetLinks": {"raw": "/of/another/machine"}}])
    def test_derivatives_that_lie_elsewhere_are_completed_by_the_dataset_that_is_given(self, raw, petprep, told):
        place = raw.parent / "elsewhere"
        petprep.rename(place)
        about = json.loads((place / "dataset_description.json").read_text())
        (place / "dataset_description.json").write_text(json.dumps(about | told))
        case = with_derivatives(self.case(raw), find_derivatives([f"petprep={place}"], raw))
        found = read_pet_sidecar(Path(case["pet"]))
        assert case["pet"].startswith(str(place))
        assert (found.fields["InjectedRadioactivity"], found.fields["ImageDecayCorrected"]) == (573, True)
        assert found.body == {"weight": 58.0, "sex": "M"}

    def test_a_transform_stands_in_for_the_registration(self, quick, raw, petprep, tmp_path):
        for path in (petprep / "sub-01/ses-01/pet").iterdir():
            path.unlink()
        moved = AFFINE.copy()
        moved[:3, 3] += (12.0, -6.0, 8.0)  # the raw PET lies elsewhere
        save(raw / "sub-01/ses-01/pet/sub-01_ses-01_pet.nii.gz", frames(), moved)
        transform = sitk.AffineTransform(np.eye(3).ravel().tolist(), (-12.0, 6.0, 8.0))  # LPS, from the T1w to the PET
        name = "sub-01_ses-01_from-pet_to-T1w_mode-image_xfm.txt"
        sitk.WriteTransform(transform, str(petprep / "sub-01/ses-01/pet" / name))
        out = tmp_path / "out"
        words = ["--steps", "1", "--device", "cpu", "--participant-label", "01", "--derivatives", f"petprep={petprep}"]
        assert cli.main(["batch", str(raw), str(out), "participant", *words, "--frames", "5"]) == 0
        record = record_of(out, "sub-01_ses-01")
        assert record["registration"]["reasons"] == ["skipped: a transform was given"]
        name = "sub-01/ses-01/pet/sub-01_ses-01_space-T1w_desc-restored_pet.nii.gz"
        assert np.allclose(nib.load(out / name).get_fdata(), frames()[..., 4] * 58000 / 573e6, rtol=1e-3)

    def test_fmriprep_gives_t1w_and_mask(self, raw, petprep):
        (made,) = find_derivatives([f"fmriprep={petprep}"], raw)
        case = with_derivatives(self.case(raw), [made])
        assert case["mri"].endswith("sub-01_ses-01_desc-preproc_T1w.nii.gz")
        assert case["mask"].endswith("desc-brain_mask.nii.gz")
        assert case["pet"].endswith("raw/sub-01/ses-01/pet/sub-01_ses-01_pet.nii.gz")

    def test_another_scan_of_the_session_is_not_taken_for_this_one(self, raw, petprep):
        pet = petprep / "sub-01/ses-01/pet"
        for path in list(pet.iterdir()):
            path.rename(pet / path.name.replace("ses-01_", "ses-01_trc-PIB_"))
        case = with_derivatives(self.case(raw), find_derivatives([str(petprep)], raw))
        assert "aligned" not in case
        assert "/raw/sub-01/" in case["pet"]

    def test_what_is_not_there_is_refused(self, raw, petprep):
        with pytest.raises(BundleError, match="must be of fmriprep, smriprep, petprep"):
            find_derivatives(["freesurfer"], raw)
        with pytest.raises(BundleError, match="The derivatives of fmriprep must be a folder"):
            find_derivatives(["fmriprep"], raw)
        other = next(c for c in discover(raw, participants=["02"]).cases)
        with pytest.raises(BundleError, match="must hold a T1w of sub-02"):
            with_derivatives(other, find_derivatives(["petprep"], raw))


class TestLabels:
    def test_a_path_with_the_case_in_it(self, tmp_path):
        for name in ("sub-01_ses-a", "x-01-a"):
            (tmp_path / f"{name}.nii.gz").write_bytes(b"")
        case = {"case": "sub-01_ses-a"}
        assert label_file(f"{tmp_path}/{{case}}.nii.gz", case, "mask", "--mask").endswith("sub-01_ses-a.nii.gz")
        assert label_file(f"{tmp_path}/x-{{subject}}-{{session}}.nii.gz", case, "mask", "--mask").endswith(
            "x-01-a.nii.gz"
        )
        with pytest.raises(BundleError, match="--atlas must be there for each case, got none for sub-01_ses-a"):
            label_file(f"{tmp_path}/{{subject}}.nii.gz", case, "dseg", "--atlas")
        with pytest.raises(BundleError, match=r"may hold \{case\}"):
            label_file(f"{tmp_path}/{{sub}}.nii.gz", case, "mask", "--mask")

    def test_an_atlas_of_a_bids_dataset_and_its_names(self, tmp_path):
        anat = tmp_path / "sub-01/anat"
        anat.mkdir(parents=True)
        for name in ("sub-01_dseg", "sub-01_space-MNI152NLin2009cAsym_dseg"):
            (anat / f"{name}.nii.gz").write_bytes(b"")
        found = label_file(str(tmp_path), {"case": "sub-01_ses-b"}, "dseg", "--atlas")
        assert found.endswith("anat/sub-01_dseg.nii.gz")
        assert label_names(Path(found)) == {}
        (tmp_path / "dseg.tsv").write_text("index\tname\n1\tgrey matter\n2\twhite matter\n3\t<script>\n")
        assert label_names(Path(found)) == {1: "grey matter", 2: "white matter", 3: "_script_"}  # no markup
        (anat / "sub-01_desc-aseg_dseg.nii.gz").write_bytes(b"")
        with pytest.raises(BundleError, match="must name one image for each case, got 2"):
            label_file(str(tmp_path), {"case": "sub-01"}, "dseg", "--atlas")


def test_two_pets_of_a_session_go_into_one_out_one_after_the_other_and_never_over_each_other(raw, tmp_path, capsys):
    out, one = tmp_path / "out", ("--participant-label", "03")
    assert batch(raw, out, *one) == 1
    assert "sub-03 must have one PET (pet/*_pet.nii.gz), got 2" in capsys.readouterr().err
    assert batch(raw, out, *one, "--rec", "acstat") == 0
    first = {path: path.read_bytes() for path in out.rglob("sub-03*") if path.is_file()}
    assert batch(raw, out, *one, "--rec", "acdyn") == 1
    assert "OUT must hold no results of other images under the name sub-03" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in first} == first


@pytest.mark.full
def test_the_self_made_sets_are_valid(raw):
    """But for sub-02, whose byte-order mark and older keys are wrong on purpose."""
    if not VALIDATOR.is_file():
        pytest.skip("bids-validator-deno is not installed; `make setup` does it")
    shutil.rmtree(raw / "sub-02")
    people = raw / "participants.tsv"
    people.write_text("".join(line for line in people.read_text().splitlines(True) if not line.startswith("sub-02")))
    found = subprocess.run([str(VALIDATOR), str(raw), "--format", "json"], capture_output=True, text=True, check=False)
    issues = json.loads(found.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []


@pytest.mark.full
def test_the_validator_finds_no_error(raw):
    if not VALIDATOR.is_file():
        pytest.skip("bids-validator-deno is not installed; `make setup` does it")
    out = raw / "derivatives" / "medfuse"
    (raw / "sub-03/pet/sub-03_trc-FDG_rec-acstat_pet.nii.gz").unlink()
    (raw / "sub-03/pet/sub-03_trc-FDG_rec-acstat_pet.json").unlink()
    assert batch(raw, out) == 0
    found = subprocess.run([str(VALIDATOR), str(out), "--format", "json"], capture_output=True, text=True, check=False)
    issues = json.loads(found.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert found.returncode == 0


def test_the_folder_of_all_participants_is_listed_once_and_again_when_it_changes(tmp_path, monkeypatch):
    """For each image anew, the index of n cases would take n times n steps."""
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.1"}')
    for number in range(5):
        save(tmp_path / f"sub-{number}/anat/sub-{number}_T1w.nii.gz", head())
        save(tmp_path / f"sub-{number}/pet/sub-{number}_pet.nii.gz", head())
    listed, glob = [], Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: listed.append((self, pattern)) or glob(self, pattern))
    os.utime(tmp_path, (1, 1))
    assert [case["pet_unit"] for case in discover(tmp_path).cases if "pet_unit" in case] == []
    assert listed.count((tmp_path, "*.json")) == 1
    (tmp_path / "pet.json").write_text('{"Units": "Bq/mL"}')
    assert [case["pet_unit"] for case in discover(tmp_path).cases] == 5 * ["Bq/mL"]

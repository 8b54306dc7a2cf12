"""From DICOM files to files, as a user calls it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medfuse import cli
from medfuse.bundles import bundle_dir, share_dir
from medfuse.report.findings import findings

OUTPUTS = ("fused", "mri_restored", "pet_restored", "weight", "fused_rgb")


@pytest.fixture
def study(tmp_path, mri, pet, save) -> Path:
    """One folder with an MRI and a coarser PET of one world, to be fused in a second."""
    rng = np.random.default_rng(0)

    def ball(shape: tuple[int, int, int], top: float) -> np.ndarray:
        axes = [(np.arange(n) - (n - 1) / 2) / n for n in shape]
        r = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
        image = top * (0.6 * (r < 0.45) + 0.4 * (r < 0.2)) + rng.normal(0, 0.01 * top, shape)
        return np.abs(image).astype(np.int16)

    head = mri.change(stored=ball((6, 40, 36), 900.0))
    slopes = (1.7, 1.1, 2.9, 0.8, 1.3, 2.0)
    uptake = pet.change(stored=ball((6, 20, 18), 20000.0), spacing=(3.0, 5.0, 3.0), slopes=slopes)
    save(head.slices(), tmp_path / "study" / "CANARY_MR")
    save(uptake.slices(), tmp_path / "study" / "CANARY_PT")
    return tmp_path / "study"


def test_fuse_a_study_from_dicom_to_every_output(study, tmp_path, mri, pet, capsys, caplog, canaries):
    caplog.set_level(logging.DEBUG)
    out = tmp_path / "out"
    assert cli.main(["fuse", "--dicom", str(study), "--out", str(out), "--steps", "1"]) == 0
    printed = capsys.readouterr()
    assert "PET: SUV, dose decayed from the injection to SeriesTime" in printed.out
    record = json.loads((out / "case" / "case.json").read_text())
    source = record["sources"]["pet"]
    assert source["unit"] == "SUV"
    assert source["suv"]["factor"] == pytest.approx(2.7633668e-4, rel=1e-7)
    assert source["suv"]["tags"]["PatientWeight"] == 70.0
    assert source["suv"]["seconds_after_injection"] == {"SeriesTime": 3600.0, "AcquisitionTime": 3600.0}
    assert record["sources"]["mri"]["unit"] == "a.u."
    assert "suv" not in record["sources"]["mri"]
    assert record["registration"]["performed"] is False
    assert record["registration"]["reasons"] == ["skipped: the images share a frame of reference"]
    for kind in OUTPUTS:
        image = nib.load(out / "case" / f"case_{kind}.nii.gz")
        assert image.shape == (36, 40, 6)
        assert np.abs(image.affine - mri.affine).max() < 1e-4
    assert nib.load(out / "case" / "case_pet_restored.nii.gz").header["descrip"].item() == b"SUV"

    written = {folder.name: len(list(folder.iterdir())) for folder in (out / "case" / "dicom").iterdir()}
    assert written == {"pet_restored": 6, "fused": 1, "fused_rgb": 6, "fused_rgb_multiframe": 1}
    for path in (p for p in out.rglob("*") if p.is_file()):
        assert not [c for c in canaries if c in path.name]
        if path.suffix == ".dcm":  # what a PACS needs to file it: see test_dicom_write.py
            continue
        content = path.name.encode() + path.read_bytes()
        if path.suffix == ".gz":
            content += nib.load(path).header.binaryblock
        assert not [c for c in canaries if c.encode() in content], path.suffix
    told = printed.out + printed.err + caplog.text
    assert not [c for c in canaries if c in told]


def test_fuse_takes_dicom_and_nifti_for_each_other(study, tmp_path, capsys):
    from medfuse.io import DicomReader, write_nifti

    volume, meta = DicomReader(modality="PT").get_data([study])
    write_nifti(tmp_path / "pet.nii.gz", volume, meta["affine"])
    common = ["--mri", str(study / "CANARY_MR"), "--steps", "1", "--aligned"]
    pets = {"dicom": [study / "CANARY_PT"], "nifti": [tmp_path / "pet.nii.gz", "--pet-unit", "SUV"]}
    for name, pet in pets.items():
        assert cli.main(["fuse", "--pet", *map(str, pet), *common, "--out", str(tmp_path / name)]) == 0
    fused = [nib.load(tmp_path / name / "case" / "case_fused.nii.gz").get_fdata() for name in pets]
    assert np.abs(fused[0] - fused[1]).mean() < 1e-3  # a NIfTI's affine is rounded to float32
    records = [json.loads((tmp_path / name / "case" / "case.json").read_text()) for name in pets]
    assert [r["sources"]["pet"]["unit"] for r in records] == ["SUV", "SUV"]
    assert [r["sources"]["pet"]["residual_chi2"] for r in records] == [None, None]
    assert records[0]["sources"]["mri"]["sha256"] == records[1]["sources"]["mri"]["sha256"]


@pytest.mark.parametrize(
    ("arguments", "unit"), [(["--suv", "lbm"], "SUVlbm"), (["--suv", "none"], "Bq/ml")], ids=["lbm", "none"]
)
def test_the_unit_travels_to_the_outputs(study, tmp_path, arguments, unit):
    call = ["fuse", "--dicom", str(study), "--out", str(tmp_path / "out"), "--steps", "1", *arguments]
    assert cli.main(call) == 0
    record = json.loads((tmp_path / "out" / "case" / "case.json").read_text())
    assert record["sources"]["pet"]["unit"] == unit
    assert record["sources"]["pet"]["suv"]["kind"] == arguments[1]
    image = nib.load(tmp_path / "out" / "case" / "case_pet_restored.nii.gz")
    assert image.header["descrip"].item() == unit.encode()


def test_a_mask_on_its_own_grid_gives_the_values_of_its_regions(study, tmp_path, mri, capfd):
    from medfuse.io import write_nifti

    halves = np.zeros((18, 20, 3), np.float32)
    halves[:9], halves[9:] = 1, 2
    coarse = mri.affine @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1.0]])
    write_nifti(tmp_path / "mask.nii.gz", halves, coarse)
    elsewhere = coarse.copy()
    elsewhere[0, 3] += 900
    write_nifti(tmp_path / "elsewhere.nii.gz", halves, elsewhere)
    write_nifti(tmp_path / "image.nii.gz", halves / 3, coarse)
    (tmp_path / "mask.dcm").touch()

    call = ["fuse", "--dicom", str(study), "--out", str(tmp_path / "out"), "--steps", "1", "--no-dicom", "--mask"]
    assert cli.main([*call, str(tmp_path / "mask.nii.gz")]) == 0
    record = json.loads((tmp_path / "out" / "case" / "case.json").read_text())
    whole, *regions = record["sources"]["pet"]["regions"]
    assert [r["label"] for r in regions] == [1, 2]
    assert [r["volume_ml"] for r in regions] == pytest.approx([whole["volume_ml"] / 2] * 2)
    page = (tmp_path / "out" / "case" / "case_report.html").read_text()
    assert "Label 1" in page and "No mask was given" not in page

    capfd.readouterr()
    for name, fault in (
        ("elsewhere.nii.gz", "Regions must overlap the MRI"),
        ("image.nii.gz", "labels"),
        ("mask.dcm", "Regions must be a NIfTI with labels"),
    ):
        assert cli.main([*call, str(tmp_path / name), "--case", "bad"]) == 2
        (line,) = [text for text in capfd.readouterr().err.splitlines() if text]
        assert line.startswith("medfuse: error: ") and fault in line
    assert not (tmp_path / "out" / "bad").exists()


def test_a_full_disk_is_told_and_leaves_no_case_that_looks_complete(study, tmp_path, capfd):
    """A limit on the size of files stands for the disk: writing fails in the same place, in the same way."""
    resource = pytest.importorskip("resource", reason="Windows knows no such limit")
    call = ["fuse", "--dicom", str(study), "--out", str(tmp_path / "out"), "--steps", "1", "--no-dicom"]
    assert cli.main(call) == 0
    capfd.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        code = cli.main(call)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    (line,) = [text for text in capfd.readouterr().err.splitlines() if "medfuse" in text or "Error" in text]
    assert "OUT writable with space left, got 'file too large'; check both." in line
    assert not (tmp_path / "out" / "case" / "case.json").exists()
    assert not list((tmp_path / "out").rglob(".tmp-*"))


def test_a_batch_of_studies_takes_the_suv(study, tmp_path):
    (tmp_path / "studies").mkdir()
    study.rename(tmp_path / "studies" / "CANARY")
    call = ["batch", str(tmp_path / "studies"), str(tmp_path / "out"), "participant", "--steps", "1", "--device", "cpu"]
    overlay = ["--overlay", str(share_dir() / "configs" / "run" / "no_dicom.yaml"), "--resume"]
    before = None
    for suv, unit in (("lbm", "SUVlbm"), ("bsa", "SUVbsa")):
        assert cli.main([*call, *overlay, "--suv", suv]) == 0
        (path,) = (tmp_path / "out").glob("study-*/study-*_done.json")
        record = json.loads((path.parent / f"{path.parent.name}.json").read_text())
        assert (record["sources"]["pet"]["unit"], record["sources"]["pet"]["suv"]["kind"]) == (unit, suv)
        assert path.stat().st_mtime_ns != before
        before = path.stat().st_mtime_ns
        assert cli.main([*call, *overlay, "--suv", suv]) == 0
        assert path.stat().st_mtime_ns == before


def test_a_series_is_chosen_by_its_uid(study, tmp_path, mri, save, capsys):
    other = mri.change(series="1.2.826.0.1.7.8")
    save(other.slices(), study, name="CANARY_other_{}.dcm")
    call = ["fuse", "--dicom", str(study), "--out", str(tmp_path / "out"), "--steps", "1"]
    assert cli.main(call) == 2
    error = capsys.readouterr().err
    assert "must hold one MR series, got 2" in error
    assert other.series in error
    assert not (tmp_path / "out").exists()
    assert cli.main([*call, "--mri-series", other.series]) == 0
    shape = nib.load(tmp_path / "out" / "case" / "case_fused.nii.gz").shape
    assert shape == (40, 34, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--pet and --mri, or as --dicom, got none of them"),
        (["--pet", "STUDY"], "got --pet"),
        (["--dicom", "STUDY", "--mri", "STUDY"], "got --dicom and --mri"),
        (["--dicom", "STUDY", "--pet-unit", "SUV"], "--pet-unit must come with a NIfTI"),
        (
            ["--pet", "STUDY/CANARY_PT", "--mri", "STUDY/CANARY_MR", "--pet-unit", "SUV"],
            "must come with a NIfTI, got DICOM",
        ),
        (["--dicom", "STUDY/CANARY_MR"], "must hold one PT series, got 0"),
        (["--dicom", "STUDY", "--pet-series", "1.2.3"], "one PT series of the given UID, got 0"),
        (["--dicom", "STUDY#1"], "The DICOM folder must exist"),
        (["--dicom", "STUDY/absent"], "The DICOM folder must exist"),
        (["--pet", "STUDY/CANARY_MR", "--mri", "STUDY/CANARY_PT"], "must hold one MR series, got 0"),
        (["--mri", "STUDY", "--pet", "absent.nii", "--suv", "bw"], "absent.nii must be a file"),
        (["--mri", "STUDY", "--pet", "absent.nii"], "absent.nii must be a file"),
    ],
)
def test_a_wrong_call_is_one_clear_sentence(study, tmp_path, capsys, arguments, message):
    words = [a.replace("STUDY", str(study)) for a in arguments]
    assert cli.main(["fuse", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "CANARY" not in error
    assert not (tmp_path / "out").exists()


def test_suv_that_was_asked_for_and_cannot_be_computed_stops_the_run(study, tmp_path, capsys):
    import pydicom

    for path in (study / "CANARY_PT").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PatientWeight = None
        dataset.save_as(path)
    call = ["fuse", "--dicom", str(study), "--out", str(tmp_path / "out"), "--steps", "1"]
    assert cli.main([*call, "--suv", "bw"]) == 2
    assert "PatientWeight must be 0.2 to 700 kg for this SUV, got none; say it in suv.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main(call) == 0
    assert "PET: no SUV, PatientWeight must be" in capsys.readouterr().out
    source = json.loads((tmp_path / "out" / "case" / "case.json").read_text())["sources"]["pet"]
    assert source["unit"] == "Bq/ml"
    assert source["suv"]["kind"] == "none"


def run_bundle(study: Path, root: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    """Make the study a case, and run the bundle on it as MONAI does."""
    case = root / "data" / "one"
    case.mkdir(parents=True)
    (study / "CANARY_MR").rename(case / "mri")
    (study / "CANARY_PT").rename(case / "pet")
    bundle = bundle_dir("pet_mri_fusion")
    command = [
        sys.executable, "-m", "monai.bundle", "run", "inference",
        "--config_file", str(bundle / "configs" / "inference.json"), "--bundle_root", str(bundle),
        "--dataset_dir", str(root / "data"), "--output_dir", str(root / "out"), "--steps", "1", *extra,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_bundle_takes_case_folders_with_dicom(study, tmp_path, canaries):
    done = run_bundle(study, tmp_path, "--suv", "bsa")
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "out" / "one" / "one.json").read_text())
    assert record["sources"]["pet"]["unit"] == "SUVbsa"
    assert not [c for c in canaries if c in done.stdout + done.stderr]


@pytest.mark.full
def test_no_traceback_of_the_bundle_shows_a_header(study, tmp_path, canaries):
    spoilt = sorted((study / "CANARY_PT").iterdir())[2]
    spoilt.write_bytes(spoilt.read_bytes()[:-100])
    done = run_bundle(study, tmp_path)
    assert done.returncode != 0
    assert "which must hold 720 bytes of pixels, got 620: it is cut short" in done.stderr
    assert not [c for c in canaries if c in done.stdout + done.stderr]
    assert not (tmp_path / "out").exists()


def test_dicom_lists_the_series_of_a_folder(study, mri, save, capsys, canaries):
    save(mri.change(series="1.2.826.0.1.7.8").slices()[::2], study / "gaps", name="{}.dcm")
    (study / "notes.txt").write_text("x")
    (study / "cut.dcm").write_bytes(bytes(128) + b"DICM")
    assert cli.main(["dicom", str(study)]) == 0
    printed = capsys.readouterr().out
    assert f"MR {mri.series}: 6 files, 36 x 40 x 6 voxels of 1.5 x 2.5 x 3 mm" in printed
    assert "PT 1.2.826.0.1.7.2: 6 files, 18 x 20 x 6 voxels of 3 x 5 x 3 mm, BQML" in printed
    assert "SUV: dose decayed from the injection to SeriesTime" in printed
    assert "unreadable: file" in printed
    assert "3 series, 1 other files, 1 unreadable files" in printed
    assert not [c for c in canaries if c in printed]
    assert cli.main(["dicom", str(study / "absent")]) == 2


def test_warnings_of_the_suv_and_another_study_are_in_record_and_report(study, tmp_path, capsys):
    for path in (study / "CANARY_PT").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose = 12e6
        dataset.StudyInstanceUID = "1.2.3"
        dataset.save_as(path)
    assert cli.main(["dicom", str(study)]) == 0
    assert "  warning: RadionuclideTotalDose is 12 MBq for 70 kg" in capsys.readouterr().out
    assert cli.main(["fuse", "--dicom", str(study), "--out", str(tmp_path / "out"), "--steps", "1"]) == 0
    record = json.loads((tmp_path / "out" / "case" / "case.json").read_text())
    (warning,) = record["sources"]["pet"]["suv"]["warnings"]
    assert warning.startswith("RadionuclideTotalDose is 12 MBq for 70 kg")
    assert record["one_study"] is False
    told = [f.text for f in findings(record) if f.level == "warning"]
    assert warning in told
    assert any(
        text.startswith("The images are of two studies of one patient. They were fused without") for text in told
    )
    assert "12 MBq for 70 kg" in (tmp_path / "out" / "case" / "case_report.html").read_text()


@pytest.mark.full
def test_the_real_study_is_fused(shared_data, tmp_path):
    folder = shared_data / "volumes" / "dicom" / "STS_008"
    assert cli.main(["fuse", "--dicom", str(folder), "--out", str(tmp_path), "--case", "sts"]) == 0
    record = json.loads((tmp_path / "sts" / "sts.json").read_text())
    assert record["sources"]["pet"]["unit"] == "SUV"
    assert record["sources"]["pet"]["suv"]["tags"]["Units"] == "GML"
    assert record["registration"]["performed"] is False
    theirs = nib.load(shared_data / "volumes/sts/STS_008/MR_T1_image.nii.gz")
    ours = nib.load(tmp_path / "sts" / "sts_mri_restored.nii.gz")
    assert np.abs(ours.affine - theirs.affine).max() < 1e-4
    assert np.abs(ours.get_fdata() - theirs.get_fdata()).max() < 1e-5 * theirs.get_fdata().max()
    pet = nib.load(tmp_path / "sts" / "sts_pet_restored.nii.gz")
    assert pet.header["descrip"].item() == b"SUV"
    top = nib.load(shared_data / "volumes/sts/STS_008/PET_image.nii.gz").get_fdata().max()
    assert 0.8 * top < pet.get_fdata().max() <= top * (1 + 1e-5)

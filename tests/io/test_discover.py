from __future__ import annotations

import gzip
import logging
from pathlib import Path

import numpy as np
import pytest

from medfuse import cli
from medfuse.errors import BundleError
from medfuse.io import discover


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


@pytest.fixture
def studies(tmp_path, mri, pet, save) -> Path:
    """Two studies in folders that are named after patients, and a file beside them."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("CANARY^NAME 19010203", "MRN-4711")):
        for kind, scan in (("T1", mri), ("FDG", pet)):
            stored = rng.integers(100, 900, (6, 24, 20)).astype(np.int16)
            slopes = tuple(np.linspace(1.0, 2.0, 6)) if scan is pet else ()
            datasets = scan.change(stored=stored, slopes=slopes, spacing=(3.0, 3.0, 3.0)).slices()
            for dataset in datasets:
                dataset.StudyInstanceUID = f"1.2.826.0.1.{number}"
            save(datasets, tmp_path / "in" / name / kind)
    return touch(tmp_path / "in", "notes.txt", "empty/notes.txt")


def test_case_folders_are_tolerant(tmp_path):
    touch(
        tmp_path, "a/mri.nii.gz", "a/pet.nii.gz", "b/mri.nii.gz", "c/scan.nii.gz", "d_mri.nii", "d_t1.nii", "d_pet.nii"
    )
    found = discover(tmp_path)
    assert found.layout == "case folders"
    problems = {case["case"]: case.get("problem") for case in found.cases}
    assert list(problems) == ["a", "b", "c", "d"]
    assert problems["a"] is None
    assert "add pet" in problems["b"]
    assert "got 1 NIfTI files with other names" in problems["c"]
    assert "one file for mri" in problems["d"]


def test_studies_are_named_by_their_uid(studies):
    found = discover(studies)
    assert found.layout == "DICOM studies"
    assert [set(case) for case in found.cases] == [{"case", "mri", "pet"}] * 2
    assert all(len(case["case"]) == 16 and case["case"].startswith("study-") for case in found.cases)
    assert {Path(case["pet"]).name for case in found.cases} == {"CANARY^NAME 19010203", "MRN-4711"}
    names = {case["pet"]: case["case"] for case in found.cases}
    (studies / "MRN-4711").rename(studies / "other")
    renamed = {case["pet"].replace("other", "MRN-4711"): case["case"] for case in discover(studies).cases}
    assert renamed == names


def test_a_study_in_two_folders_or_without_a_readable_file_is_refused_alone(studies):
    (studies / "MRN-4711" / "T1").rename(studies / "T1")
    (studies / "cut").mkdir()
    (studies / "cut" / "a.dcm").write_bytes(bytes(128) + b"DICM")
    cases = discover(studies).cases
    assert sum("must be in one folder, got more" in case.get("problem", "") for case in cases) == 1
    assert sum("must have a readable file" in case.get("problem", "") for case in cases) == 1
    assert sum("problem" not in case for case in cases) == 1


def test_case_folders_may_hold_dicom(tmp_path, mri, pet, save):
    for name in ("a", "b"):
        save(mri.slices(), tmp_path / name / "mri")
        save(pet.slices(), tmp_path / name / "pet")
    found = discover(tmp_path)
    assert (found.layout, [case["case"] for case in found.cases]) == ("case folders", ["a", "b"])


@pytest.mark.parametrize(
    ("names", "path", "message"),
    [
        ((), "absent", "got nothing there"),
        (("a.txt",), "a.txt", "got another file"),
        (("a.txt", "b/c.txt"), ".", "got a folder with none of them"),
        (("scan.nii.gz",), ".", "must hold cases"),
    ],
)
def test_other_inputs_are_refused(tmp_path, names, path, message):
    with pytest.raises(BundleError, match=message):
        discover(touch(tmp_path, *names) / path)


def test_labels_belong_to_bids(tmp_path):
    touch(tmp_path, "a/mri.nii", "a/pet.nii")
    with pytest.raises(BundleError, match="must come with a BIDS dataset, got case folders"):
        discover(tmp_path, participants=["01"])


def test_a_batch_of_studies_tells_nothing_of_the_patients(studies, tmp_path, canaries, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    spoilt = sorted((studies / "MRN-4711" / "FDG").iterdir())[2]
    spoilt.write_bytes(spoilt.read_bytes()[:-100])
    assert cli.main(["batch", str(studies), str(tmp_path / "out"), "participant", "--steps", "1"]) == 1
    printed = capsys.readouterr()
    assert "1 fused, 0 done before, 1 failed" in printed.out
    assert "is cut short" in printed.err
    told = (printed.out + printed.err + caplog.text).encode()
    for path in (tmp_path / "out").rglob("*"):
        told += path.relative_to(tmp_path).as_posix().encode()
        if path.is_file() and path.suffix != ".dcm":  # DICOM output keeps the patient, as it must
            told += gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    assert not [word for word in (*canaries, str(tmp_path)) if word.encode() in told]
    again = ["batch", str(studies), str(tmp_path / "out"), "participant", "--steps", "1", "--resume"]
    assert cli.main(again) == 1
    assert "0 fused, 1 done before, 1 failed" in capsys.readouterr().out


def test_out_must_lie_outside_of_the_studies(studies, capsys):
    assert cli.main(["batch", str(studies), str(studies / "out"), "participant"]) == 2
    assert "OUT must lie outside" in capsys.readouterr().err

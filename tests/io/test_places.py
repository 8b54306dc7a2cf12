"""Nobody's results are replaced, and nobody's folder names are told: where results lie, and what they are called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medfuse import cli
from medfuse.io import discover


def pair(folder: Path, seed: int, **fields) -> list[str]:
    """Write a tiny MRI and PET on one grid, and return the arguments that name them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    words = []
    for name, top in (("mri", 900.0), ("pet", 7.5)):
        volume = rng.uniform(0, top, (20, 24, 4)).astype(np.float32)
        nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2.0, 3.0, 1.0])), folder / f"{name}.nii.gz")
        words += [f"--{name}", str(folder / f"{name}.nii.gz")]
    (folder / "case.json").write_text(json.dumps({"aligned": True, **fields}))
    return [*words, "--aligned"]


@pytest.fixture
def scans(tmp_path, mri, pet, save) -> Callable[..., Path]:
    """Return a function that writes a study of a small MRI and PET of one world."""

    def write(name: str, *, seed: int, names: Sequence[str] = ("MR", "PET")) -> Path:
        rng = np.random.default_rng(seed)
        for scan, kind in zip((mri, pet)[-len(names) :], names, strict=True):
            stored = rng.integers(100, 900, (4, 24, 20)).astype(np.int16)
            slopes = tuple(np.linspace(1.0, 2.0, 4)) if scan is pet else ()
            datasets = scan.change(stored=stored, slopes=slopes, spacing=(3.0, 3.0, 3.0)).slices()
            for dataset in datasets:
                dataset.StudyInstanceUID = f"1.2.826.0.1.{seed}"
            save(datasets, tmp_path / name / kind)
        return tmp_path / name

    return write


def contents(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def fuse(*words: object) -> int:
    return cli.main(["fuse", "--steps", "1", *map(str, words)])


def test_another_patient_under_the_default_name_is_refused(tmp_path, quick, capsys):
    one, two = pair(tmp_path / "one", 1), pair(tmp_path / "two", 2)
    out = tmp_path / "out"
    assert fuse(*one, "--out", out) == 0
    before = contents(out / "case")
    assert fuse(*two, "--out", out) == 2
    error = capsys.readouterr().err
    assert "no results of other images under the name case, got some; name this case with --case" in error
    assert fuse("--mri", two[1], "--pet", one[3], "--aligned", "--out", out) == 2  # one of them is enough
    assert contents(out / "case") == before
    assert fuse(*one, "--out", out) == 0  # once more the same
    assert contents(out / "case") == before
    assert fuse(*two, "--out", out, "--case", "two") == 0
    assert contents(out / "case") == before
    (out / "case" / "case.json").write_text("{")  # of whom, nobody can say
    assert fuse(*one, "--out", out) == 2
    assert fuse(*one, "--out", out, "--case", "case") == 2  # even for a name that was given
    assert fuse(*one, "--out", out, "--replace") == 0
    assert contents(out / "case") == before


def test_another_study_under_the_default_name_is_refused(tmp_path, scans, quick, capsys):
    first, second = scans("first", seed=1), scans("second", seed=2)
    assert fuse("--dicom", first, "--out", tmp_path / "out") == 0
    assert fuse("--dicom", second, "--out", tmp_path / "out") == 2
    assert "name this case with --case" in capsys.readouterr().err
    assert fuse("--dicom", first, "--out", tmp_path / "out", "--suv", "none") == 0  # other settings, the same patient


@pytest.mark.parametrize("out", ["study", "study/PET", "study/PET/out"])
def test_out_in_a_folder_of_dicom_is_refused(tmp_path, scans, capsys, out):
    study = scans("study", seed=1)
    before = contents(study)
    for source in (["--dicom", study], ["--mri", study / "MR", "--pet", study / "PET"]):
        if source[0] == "--dicom" or out != "study":
            assert fuse(*source, "--out", tmp_path / out) == 2
            assert "OUT must lie apart from the inputs, got those of case" in capsys.readouterr().err
    assert contents(study) == before


def test_results_do_not_come_among_the_inputs(tmp_path, quick, capsys):
    words = pair(tmp_path / "case", 1)  # whose case.json a record of the same name would replace
    before = contents(tmp_path / "case")
    assert fuse(*words, "--out", tmp_path) == 2
    assert "OUT must lie apart from the inputs" in capsys.readouterr().err
    assert fuse(*words, "--out", tmp_path / "case" / "out") == 0  # one person's own folder
    assert {k: v for k, v in contents(tmp_path / "case").items() if not k.startswith("out/")} == before
    pair(tmp_path / "b", 2)
    assert cli.main(["batch", str(tmp_path), str(tmp_path / "b" / "out"), "participant"]) == 2
    assert "OUT must lie outside of the folders of cases, got that of b" in capsys.readouterr().err
    assert not (tmp_path / "b" / "out").exists()
    for _ in range(2):  # what lies in INPUT, but in no case, is not read again
        assert cli.main(["batch", str(tmp_path), str(tmp_path / "out"), "participant", "--steps", "1"]) == 0
        assert "2 fused, 0 done before, 0 failed" in capsys.readouterr().out


def test_a_folder_that_a_scanner_or_an_archive_has_filled_lends_its_name_to_nothing(tmp_path, scans, quick, capsys):
    """The folder of MR/ and PET/ may have a patient's name; one of mri/ and pet/, or with a case.json, is a case."""
    for n, (name, kinds) in enumerate({"JANE_DOE": "MR PET", "JOHN_DOE": "T1 pet", "half_DOE": "PET"}.items()):
        scans(f"in/{name}", seed=n, names=kinds.split())
    found = discover(tmp_path / "in")
    assert found.layout == "DICOM studies"
    assert all(case["case"].startswith("study-") for case in found.cases) and len(found.cases) == 3
    (pair(tmp_path / "in" / "p01", 9), scans("in/p02", seed=8, names=("mri", "pet")))
    scans("in/p03", seed=7, names=("MR", "PET"))
    (tmp_path / "in" / "p03" / "case.json").write_text("{}")
    found = discover(tmp_path / "in")
    assert found.layout == "case folders"
    assert [c["case"] for c in found.cases if not c["case"].startswith("study-")] == ["p01", "p02", "p03"]
    assert len(found.cases) == 6
    assert cli.main(["batch", str(tmp_path / "in"), str(tmp_path / "out"), "participant", "--steps", "1"]) == 1
    printed = capsys.readouterr()
    assert "5 fused, 0 done before, 1 failed" in printed.out
    told = (printed.out + printed.err).encode() + "".join(map(str, (tmp_path / "out").rglob("*"))).encode()
    told += b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*.*") if p.suffix in (".json", ".tsv", ".html"))
    assert b"DOE" not in told.replace(b"CANARY", b"")


def test_a_study_and_the_results_beside_it_stay_one_study(tmp_path, scans, capsys):
    scans("in/a", seed=1)
    before = discover(tmp_path / "in").cases
    assert fuse("--dicom", tmp_path / "in" / "a", "--out", tmp_path / "in" / "results") == 0
    assert list((tmp_path / "in" / "results").rglob("*.dcm"))
    assert discover(tmp_path / "in").cases == before

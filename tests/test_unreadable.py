"""One case that cannot be read, or changes while it is read, fails alone, by its name."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medfuse import cli
from medfuse.errors import BundleError
from medfuse.io import discover, find_cases
from medfuse.pipeline import DescribeSourcesd, Workflow, collect, run_batch, sha256

NOBODY = 65534


def write_case(folder: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for name in ("mri", "pet"):
        nib.save(nib.Nifti1Image(rng.random((20, 24, 4), dtype=np.float32), np.eye(4)), folder / f"{name}.nii.gz")
    (folder / "case.json").write_text('{"aligned": true, "pet_unit": "SUV"}')
    return folder


def found_by_nobody(root: Path) -> dict[str, str | None]:
    """List the problems of the cases that another user finds: root may read everything."""
    discover(root)  # what is loaded on the way another user may not be able to load
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that are forked: the child starts none
        child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            told = json.dumps({case["case"]: case.get("problem") for case in discover(root).cases})
        except BaseException as error:
            told = json.dumps({"error": repr(error)})
        os.write(theirs, told.encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as file:
        found = json.loads(file.read())
    os.waitpid(child, 0)
    return found


@pytest.fixture
def open_to_all():
    """A folder that another user may enter; what a test closes is opened again."""
    if os.getuid() != 0:
        pytest.skip("only root becomes another user")
    root = Path(tempfile.mkdtemp(dir="/tmp"))
    root.chmod(0o755)
    yield root
    shutil.rmtree(root)


def test_a_folder_of_a_case_that_may_not_be_read_fails_alone(open_to_all):
    for seed, name in enumerate("abcd"):
        write_case(open_to_all / name, seed)
    (open_to_all / "a").chmod(0)
    (open_to_all / "b").chmod(0o444)  # its names may be listed, nothing in it opened
    (open_to_all / "lost+found").mkdir(mode=0)
    problems = found_by_nobody(open_to_all)
    assert sorted(problems) == ["a", "b", "c", "d", "entry-5"]
    for case in ("a", "b", "entry-5"):
        assert problems[case].startswith(f"The files of case {case} must be readable, got 'permission denied'")
    assert problems["c"] is problems["d"] is None


def test_a_subject_or_a_study_that_may_not_be_read_fails_alone(open_to_all):
    for subject in ("01", "02", "03"):
        for kind, name in (("pet", "pet"), ("anat", "T1w")):
            folder = open_to_all / "bids" / f"sub-{subject}" / kind
            folder.mkdir(parents=True)
            (folder / f"sub-{subject}_{name}.nii.gz").touch()
        study = open_to_all / "studies" / f"CANARY-{subject}" / "series"
        study.mkdir(parents=True)
        (study / "0.dcm").write_bytes(bytes(128) + b"DICM")
    (open_to_all / "bids" / "sub-01").chmod(0)
    (open_to_all / "bids" / "sub-02" / "pet").chmod(0)
    problems = found_by_nobody(open_to_all / "bids")
    assert problems.pop("sub-03") is None
    for case, problem in problems.items():
        assert problem.startswith(f"The files of {case} must be readable, got 'permission denied'")
    assert sorted(problems) == ["sub-01", "sub-02"]
    (open_to_all / "studies" / "CANARY-01").chmod(0)
    (open_to_all / "studies" / "CANARY-02" / "series").chmod(0)
    problems = found_by_nobody(open_to_all / "studies")
    assert len(problems) == 3  # none is left out without a word
    assert "must be readable with all that is in it" in problems["entry-1"]
    assert "must be readable with all that is in it" in problems["entry-2"]
    assert "CANARY" not in json.dumps(problems)


def test_what_is_no_file_where_one_should_be_fails_alone(tmp_path):
    for seed, name in enumerate("abcde"):
        write_case(tmp_path / name, seed)
    for path in (tmp_path / "a" / "pet.nii.gz", tmp_path / "b" / "case.json", tmp_path / "c" / "mri.nii.gz"):
        path.unlink()
    (tmp_path / "a" / "pet.nii.gz").mkdir()
    (tmp_path / "b" / "case.json").mkdir()
    (tmp_path / "c" / "mri.nii.gz").symlink_to("nowhere")
    (tmp_path / "d" / "case.json").write_text("{")
    problems = {case["case"]: case.get("problem", "") for case in discover(tmp_path).cases}
    assert "pet of case a must be a file, got a folder" in problems["a"]
    assert "case.json of case b must be readable JSON" in problems["b"]
    assert "mri of case c must be a file, got a link to nothing" in problems["c"]
    assert "case.json of case d must be readable JSON" in problems["d"]
    assert problems["e"] == ""
    with pytest.raises(BundleError, match="pet of case a must be a file"):
        find_cases(tmp_path)


def test_a_folder_that_vanishes_while_it_is_listed_fails_alone(tmp_path, monkeypatch):
    for seed, name in enumerate("ab"):
        write_case(tmp_path / name, seed)
    listed = Path.iterdir

    def vanishing(self: Path):
        if self.name == "a":
            raise FileNotFoundError(2, "No such file or directory")
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", vanishing)
    problems = {case["case"]: case.get("problem", "") for case in discover(tmp_path).cases}
    assert "The files of case a must be readable, got 'no such file or directory'" in problems["a"]
    assert problems["b"] == ""


def changing(monkeypatch, path: Path, when: str) -> None:
    """Let a file become another before or after the workflow has noted its hash."""
    before = DescribeSourcesd.__call__

    def call(self, data):
        if when == "before" and data["case"] == "a" and "mask" not in self.keys:
            nib.save(nib.Nifti1Image(np.random.default_rng(9).random((20, 24, 4), dtype=np.float32), np.eye(4)), path)
        result = before(self, data)
        if when == "after" and data["case"] == "a" and "mask" not in self.keys:
            nib.save(nib.Nifti1Image(np.random.default_rng(9).random((20, 24, 4), dtype=np.float32), np.eye(4)), path)
        if when == "gone" and data["case"] == "a" and "mask" not in self.keys:
            path.unlink()
        return result

    monkeypatch.setattr(DescribeSourcesd, "__call__", call)


@pytest.mark.parametrize("when", ["before", "after", "gone"])
def test_an_input_that_changes_while_it_is_read_fails_the_case(quick, tmp_path, monkeypatch, when):
    for seed, name in enumerate("ab"):
        write_case(tmp_path / "data" / name, seed)
    changing(monkeypatch, tmp_path / "data" / "a" / "pet.nii.gz", when)
    summary = run_batch(discover(tmp_path / "data").cases, tmp_path / "out", steps=1, device="cpu")
    assert summary.fused == ["b"]
    said = "pet must be a file, got none there" if when == "gone" else "pet of case a must stay as it is while"
    assert said in summary.failed["a"]
    assert not (tmp_path / "out" / "a" / "error.txt").exists(), summary.failed
    rows = collect(tmp_path / "out")
    assert [(row["case"], row["state"]) for row in rows] == [("a", "failed"), ("b", "done")]
    assert rows[0]["message"] == summary.failed["a"]


def test_hashes_in_ledger_and_record_are_those_of_what_was_read(quick, tmp_path):
    folder = write_case(tmp_path / "data" / "a")
    run_batch(discover(tmp_path / "data").cases, tmp_path / "out", steps=1, device="cpu")
    record, ledger = (json.loads((tmp_path / "out" / "a" / name).read_text()) for name in ("a.json", "a_done.json"))
    for key in ("mri", "pet"):
        digest = sha256(folder / f"{key}.nii.gz")
        assert record["sources"][key]["sha256"] == ledger["based_on"]["inputs"][key] == digest


def test_fuse_refuses_an_input_that_changes_while_it_is_read(tmp_path, monkeypatch, capsys):
    folder = write_case(tmp_path / "a")
    changing(monkeypatch, folder / "mri.nii.gz", "after")
    sources = ["--pet", str(folder / "pet.nii.gz"), "--mri", str(folder / "mri.nii.gz"), "--aligned", "--case", "a"]
    assert cli.main(["fuse", *sources, "--out", str(tmp_path / "out"), "--steps", "1"]) == 2
    assert "mri of case a must stay as it is while it is read" in capsys.readouterr().err
    assert not (tmp_path / "out" / "a").exists()


def test_a_case_whose_record_cannot_be_written_does_not_stop_the_next(quick, tmp_path, monkeypatch):
    for seed, name in enumerate("ab"):
        write_case(tmp_path / "data" / name, seed)
    read = Workflow.read

    def fail(self, item):
        if item["case"] == "a":
            (tmp_path / "out" / "a").write_text("in the way")  # no folder can take its place
            raise BundleError("a must be sound, got another; repair it.")
        return read(self, item)

    monkeypatch.setattr(Workflow, "read", fail)
    summary = run_batch(discover(tmp_path / "data").cases, tmp_path / "out", steps=1, device="cpu")
    assert summary.failed == {"a": "a must be sound, got another; repair it."}
    assert summary.fused == ["b"]

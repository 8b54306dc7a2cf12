"""Many cases in one process: isolation, exit codes, what is refused, and no word about a patient."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from small_cases import CANARIES, batch, results, same_bytes, table, truncate, write_cases, write_pair

from medfuse import cli
from medfuse.bundles import bundle_dir, share_dir
from medfuse.errors import BundleError, ImageError
from medfuse.pipeline import (
    Workflow,
    fuse,
    load_workflow,
    run_batch,
)


@pytest.fixture
def data(tmp_path) -> Path:
    """Three good cases."""
    return write_cases(tmp_path / "data")


def test_a_bad_case_does_not_stop_the_next(quick, data, tmp_path, capsys):
    truncate(data / "b" / "pet.nii.gz")
    (data / "d").mkdir()
    (data / "d" / "mri.nii.gz").write_bytes(b"")
    out = tmp_path / "out"
    assert cli.main(["batch", str(data), str(out), "participant", "--steps", "1"]) == 1
    printed = capsys.readouterr()
    assert "case folders: 4 cases" in printed.out
    assert "2 fused, 0 done before, 2 failed" in printed.out
    assert "medfuse: b failed: pet must be a whole gzip file" in printed.err
    rows = table(out)
    assert [(row["case"], row["state"]) for row in rows] == [
        ("a", "done"),
        ("b", "failed"),
        ("c", "done"),
        ("d", "failed"),
    ]
    assert "add pet" in rows[3]["message"]
    assert sorted(p.name for p in out.iterdir()) == ["a", "b", "c", "cases.tsv", "d", "index.html"]
    assert [p.name for p in (out / "b").iterdir()] == ["b_failed.json"]
    record = json.loads((out / "a" / "a_done.json").read_text())
    names = {p.name for p in (out / "a").iterdir()}
    assert set(record["outputs"]) == names - {"a_done.json"}
    assert record["seconds"] > 0
    assert 10 < record["peak_memory_mib"] < 100_000


def test_overlays_change_a_run(quick, data, tmp_path):
    runs = share_dir() / "configs" / "run"
    arguments = ["batch", str(data), str(tmp_path / "out"), "participant", "--shard", "1/3", "--device", "cpu"]
    assert cli.main([*arguments, "--overlay", str(runs / "one_step.yaml"), str(runs / "convex.yaml")]) == 0
    record = json.loads((tmp_path / "out" / "a" / "a.json").read_text())
    assert record["steps"] == 1
    assert record["settings"] == {
        "correction": "cut",
        "fusion_rule": "convex",
        "views": 1,
        "settle": [None, 1.0],
        "patches": 4,
        "balance": 0,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("convex: true", "got 'convex'; remove it"),  # a key of 0.1
        ("stepz: 3", "got 'stepz'; write steps"),
        ("fusion_infrer#steps: 3", "got 'fusion_infrer'; write fusion_inferer"),
    ],
)
def test_a_key_of_an_overlay_that_nothing_reads_is_refused(tmp_path, text, message):
    (tmp_path / "o.yaml").write_text(text)
    with pytest.raises(BundleError, match=f"must be one that the configuration reads, {message}"):
        load_workflow(overlays=[tmp_path / "o.yaml"])
    (tmp_path / "p.yaml").write_text("how_many: 2\nsteps: '@how_many'\n+handlers: []\nfusion_inferer::views: 2")
    assert load_workflow(overlays=[tmp_path / "p.yaml"]).inferer.told.steps == 2


def test_group_makes_the_table_anew(quick, data, tmp_path, capsys):
    batch(data, tmp_path / "out", shard=(1, 3))
    before = (tmp_path / "out" / "cases.tsv").read_bytes()
    (tmp_path / "out" / "cases.tsv").unlink()
    (tmp_path / "out" / "index.html").unlink()
    assert cli.main(["batch", str(data), str(tmp_path / "out"), "group"]) == 0
    assert "1 case: 1 done, 0 failed" in capsys.readouterr().out
    assert (tmp_path / "out" / "cases.tsv").read_bytes() == before
    assert (tmp_path / "out" / "index.html").is_file()


def test_an_unexpected_error_leaves_a_traceback_without_its_text(data, tmp_path, monkeypatch):
    def fail(self, result, folder):
        (folder / "half.nii.gz").write_bytes(b"half")
        try:
            raise KeyError("CANARY")
        except KeyError as cause:
            raise RuntimeError("CANARY at /home/CANARY/x.nii") from cause

    monkeypatch.setattr(Workflow, "write", fail)
    summary = batch(data, tmp_path / "out", shard=(1, 3))
    assert summary.failed["a"].startswith("an unexpected error (RuntimeError); see error.txt")
    folder = tmp_path / "out" / "a"
    assert sorted(p.name for p in folder.iterdir()) == ["a_failed.json", "error.txt"]
    trace = (folder / "error.txt").read_text()
    assert trace.startswith("  ")
    assert "KeyError\nwhich led to\n" in trace
    assert "medfuse/pipeline/batch.py, line " in trace
    assert trace.rstrip().endswith("RuntimeError")
    for word in ("CANARY", str(Path.cwd()), str(tmp_path), '"/'):
        assert word not in trace


def test_a_full_disk_is_one_sentence_and_leaves_no_half_case(data, tmp_path, monkeypatch):
    def fail(self, result, folder):
        (folder / "half.nii.gz").write_bytes(b"half")
        raise OSError(28, "No space left on device", str(tmp_path / "CANARY"))

    monkeypatch.setattr(Workflow, "write", fail)
    told = batch(data, tmp_path / "out", shard=(1, 3)).failed["a"]
    assert "space left" in told and "CANARY" not in told and "unexpected" not in told
    assert [p.name for p in (tmp_path / "out" / "a").iterdir()] == ["a_failed.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["DATA", "DATA", "participant"], "OUT must lie apart from the inputs, got those of a"),
        (["DATA", "DATA/a/out", "participant", "--overlay", "absent.yaml"], "An overlay must be"),
        (["DATA", "OUT", "participant", "--overlay", "DATA/a/pet.nii.gz"], "An overlay must be"),
        (["DATA", "OUT", "participant", "--overlay", "LIST"], "An overlay must hold a mapping"),
        (["DATA", "FOREIGN", "participant"], "The folder of a in OUT must be free"),
        (["DATA", "DATA/a/case.json", "participant"], "OUT must be a folder"),
        (["DATA/absent", "OUT", "participant"], "The input must be a folder, or a manifest"),
        (["DATA", "OUT", "participant", "--participant-label", "01"], "must come with a BIDS dataset"),
        (["DATA", "OUT", "participant", "--degradation", "absent"], "a degradation must be one of"),
        (["DATA", "OUT", "participant", "--bundle", "absent"], "the bundle must be one of"),
        (["DATA", "OUT", "participant", "--device", "absent"], "--device must be"),
        (["DATA", "OUT", "group"], "OUT must hold results"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(data, tmp_path, capsys, arguments, message):
    (tmp_path / "foreign" / "a").mkdir(parents=True)
    (tmp_path / "foreign" / "a" / "thesis.txt").write_text("")
    (tmp_path / "list.yaml").write_text("- 1\n")
    places = {"DATA": data, "OUT": tmp_path / "out", "FOREIGN": tmp_path / "foreign", "LIST": tmp_path / "list.yaml"}
    for word, place in places.items():
        arguments = [a.replace(word, str(place), 1) if a.startswith(word) else a for a in arguments]
    assert cli.main(["batch", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert message in error[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "-1/2"])
def test_a_wrong_shard_is_wrong_usage(tmp_path, capsys, shard):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["batch", "IN", "OUT", "participant", f"--shard={shard}"])
    assert "must be I/N" in capsys.readouterr().err


def test_ids_must_be_unique_and_plain(tmp_path):
    for ids in (["a", "a"], ["a", "A"], ["../a"], [".."]):
        with pytest.raises(BundleError, match=r"rename"):
            run_batch([{"case": case} for case in ids], tmp_path / "out")


def test_nothing_of_a_patient_comes_out(data, tmp_path, monkeypatch, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    home = tmp_path / "CANARY^NAME 19010203"
    data.rename(home)
    truncate(home / "b" / "mri.nii.gz")
    write_pair(home / "MRN-4711", seed=5, patient="CANARY^NAME")
    rows = [f"{case}\t{home.name}/{name}/mri.nii.gz\t{home.name}/{name}/pet.nii.gz" for case, name in
            (("one", "a"), ("two", "b"), ("three", "MRN-4711"), ("four", "absent"))]  # fmt: skip
    (tmp_path / "CANARY.tsv").write_text("\n".join(["case\tmri\tpet", *rows]))
    write = Workflow.write

    def fail(self, result, folder):
        write(self, result, folder)
        if result.case == "three":
            raise RuntimeError(f"CANARY in {home}")

    monkeypatch.setattr(Workflow, "write", fail)
    arguments = ["batch", str(tmp_path / "CANARY.tsv"), str(tmp_path / "out"), "participant", "--steps", "1"]
    assert cli.main(arguments) == 1
    printed = capsys.readouterr()
    assert "1 fused, 0 done before, 3 failed" in printed.out
    told = (printed.out + printed.err + caplog.text).encode()
    for path in (tmp_path / "out").rglob("*"):
        told += path.relative_to(tmp_path).as_posix().encode()
        if path.is_file():
            told += gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    assert not [word for word in (*CANARIES, str(tmp_path)) if word.encode() in told]


def test_three_lines_of_python(data):
    result = fuse(data / "a" / "pet.nii.gz", data / "a" / "mri.nii.gz", steps=1, aligned=True, pet_unit="SUV")
    assert result.restored[1].shape == (20, 24, 4)
    assert np.array_equal(result.affine, np.diag([2.0, 2.0, 3.0, 1.0]))
    assert result.units == ("a.u.", "SUV")
    pet = nib.load(data / "a" / "pet.nii.gz").get_fdata()
    assert np.abs(result.restored[1].numpy() - pet).max() < 1e-5 * pet.max()
    assert sorted(p.name for p in (data / "a").iterdir()) == ["case.json", "mri.nii.gz", "pet.nii.gz"]


def test_fuse_removes_the_bias_field_and_says_so(data, tmp_path):
    ramp = np.exp(np.linspace(-0.5, 0.5, 20))[:, None, None]
    mri = nib.load(data / "a" / "mri.nii.gz")
    nib.save(nib.Nifti1Image((mri.get_fdata() * ramp).astype(np.float32), mri.affine), data / "a" / "mri.nii.gz")
    inside = mri.get_fdata() > 800
    pair = ["--mri", str(data / "a" / "mri.nii.gz"), "--pet", str(data / "a" / "pet.nii.gz"), "--pet-unit", "SUV"]
    call = ["fuse", *pair, "--aligned", "--steps", "1", "--out", str(tmp_path / "out")]
    variation = {}
    for case, option in (("without", []), ("with", ["--n4"])):
        assert cli.main([*call, "--case", case, *option]) == 0
        image = nib.load(tmp_path / "out" / case / f"{case}_mri_restored.nii.gz")
        values = image.get_fdata()[inside]
        variation[case] = values.std() / values.mean()
        removed = image.header["descrip"].item() == b"a.u., bias field removed"
        page = (tmp_path / "out" / case / f"{case}_report.html").read_text()
        assert removed == ("The bias field of the MRI was removed first" in page) == (case == "with")
        assert ("was estimated by N4" in page) == removed
    assert variation["with"] < 0.5 * variation["without"]


def test_python_gets_our_own_error(data):
    truncate(data / "a" / "pet.nii.gz")
    with pytest.raises(ImageError, match="must be a whole gzip file"):
        fuse(data / "a" / "pet.nii.gz", data / "a" / "mri.nii.gz", aligned=True)


def test_a_bids_dataset_from_end_to_end(quick, data, tmp_path, capsys):
    for name, subject in zip("abc", ("sub-01", "sub-02", "sub-03"), strict=True):
        for kind, stem in (("anat", "T1w"), ("pet", "pet")):
            (tmp_path / "bids" / subject / kind).mkdir(parents=True)
            source = data / name / ("pet.nii.gz" if kind == "pet" else "mri.nii.gz")
            source.rename(tmp_path / "bids" / subject / kind / f"{subject}_{stem}.nii.gz")
    (tmp_path / "bids" / "pet.json").write_text(json.dumps({"Units": "Bq/mL"}))
    (tmp_path / "bids" / "sub-02" / "anat" / "sub-02_T1w.nii.gz").unlink()
    out = tmp_path / "bids" / "derivatives" / "medfuse"
    overlays = [str(share_dir() / "configs" / "run" / f"{name}.yaml") for name in ("aligned", "one_step")]
    arguments = ["batch", str(tmp_path / "bids"), str(out), "participant", "--overlay", *overlays]
    assert cli.main([*arguments, "--participant-label", "01", "sub-02"]) == 1
    printed = capsys.readouterr()
    assert "BIDS dataset: 2 cases" in printed.out
    assert "sub-02 must have one MRI" in printed.err
    assert [(row["case"], row["state"]) for row in table(out)] == [("sub-01", "done"), ("sub-02", "failed")]
    assert json.loads((out / "sub-01" / "medfuse" / "sub-01.json").read_text())["sources"]["pet"]["unit"] == "Bq/mL"


def test_a_workflow_must_end_with_the_writer(tmp_path):
    overlay = tmp_path / "o.yaml"
    overlay.write_text(
        yaml.safe_dump({"postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "Identity"}]}})
    )
    with pytest.raises(BundleError, match="must end with SaveFusiond, got Identity"):
        load_workflow(overlays=[overlay])


def test_what_a_bundle_cannot_do_is_refused(tmp_path):
    shutil.copytree(bundle_dir("pet_mri_fusion") / "configs", tmp_path / "configs")
    path = tmp_path / "configs" / "inference.json"
    path.write_text(path.read_text().replace('"n4": false,', ""))
    with pytest.raises(BundleError, match="must have the key n4 to set it, got none"):
        load_workflow(str(tmp_path), n4=True)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"other": torch.zeros(1)}, tmp_path / "model.pt")
    overlay = tmp_path / "o.yaml"
    overlay.write_text(yaml.safe_dump({"ckpt_path": str(tmp_path / "model.pt")}))
    with pytest.raises(BundleError, match="must fit the network"):
        load_workflow(overlays=[overlay])


@pytest.mark.full
@pytest.mark.parametrize("overlay", ["degradation/composite", "run/coronal", "run/pet_grid"])
def test_the_same_bytes_as_through_monai(data, tmp_path, overlay):
    (data / "c" / "case.json").unlink()  # to be registered
    bundle, file = bundle_dir("pet_mri_fusion"), share_dir() / "configs" / f"{overlay}.yaml"
    config = str([str(bundle / "configs" / "inference.json"), str(file)])
    call = [
        sys.executable, "-m", "monai.bundle", "run", "inference", "--config_file", config, "--bundle_root", str(bundle),
        "--dataset_dir", str(data), "--output_dir", str(tmp_path / "monai"), "--device", "cpu",
    ]  # fmt: skip
    assert subprocess.run(call, capture_output=True, check=False).returncode == 0
    assert batch(data, tmp_path / "ours", steps=None, overlays=[file]).fused == ["a", "b", "c"]
    ours = results(tmp_path / "ours")
    same_bytes(ours, results(tmp_path / "monai"))
    assert sum(name.endswith(".nii.gz") for name in ours) == 15

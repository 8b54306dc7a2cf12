"""Many cases in one process: isolation, resume, shards, exit codes, and no word about a patient."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from medfuse import cli
from medfuse.bundles import bundle_dir, share_dir
from medfuse.errors import BundleError, ImageError
from medfuse.io import discover
from medfuse.pipeline import (
    BatchSummary,
    Workflow,
    fuse,
    load_workflow,
    run_batch,
    sha256,
)

CANARIES = ("CANARY", "MRN-4711", "19010203")


def write_pair(folder: Path, *, seed: int = 0, shape=(20, 24, 4), **fields) -> None:
    """Write a tiny MRI and PET on one grid, whose headers are full of canaries."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    axes = [np.linspace(-1, 1, n) for n in shape]
    r = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    for name, top in (("mri", 900.0), ("pet", 7.5)):
        image = nib.Nifti1Image(
            (top * (r < 0.8) + rng.uniform(0, 0.1 * top, shape)).astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0])
        )
        image.header["descrip"], image.header["aux_file"] = b"CANARY^NAME MRN-4711", b"CANARY"
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"CANARY 19010203"))
        nib.save(image, folder / f"{name}.nii.gz")
    (folder / "case.json").write_text(json.dumps({"aligned": True, "pet_unit": "SUV", **fields}))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def data(tmp_path) -> Path:
    """Three good cases."""
    for seed, name in enumerate("abc"):
        write_pair(tmp_path / "data" / name, seed=seed)
    return tmp_path / "data"


def batch(data: Path, out: Path, **options) -> BatchSummary:
    return run_batch(discover(data).cases, out, **{"steps": 1, "device": "cpu", **options})


def table(out: Path) -> list[dict[str, str]]:
    with (out / "cases.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def results(out: Path) -> dict[str, bytes]:
    """Return all of the cases that must be equal in equal runs: everything but seconds and memory."""
    folders = (folder for folder in out.iterdir() if folder.is_dir() and folder.name != ".medfuse")  # the plan's
    files = (p for folder in folders for p in folder.rglob("*") if p.is_file())
    kept = (p for p in files if not p.name.endswith(("_done.json", "_failed.json")))
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in kept}


def same_bytes(ours: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def mtimes(out: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in out.glob("*/*")}


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


def test_resume_recomputes_nothing_that_is_done(quick, data, tmp_path):
    out = tmp_path / "out"
    assert batch(data, out).fused == ["a", "b", "c"]
    before = mtimes(out)
    again = batch(data, out, resume=True)
    assert (again.fused, again.skipped, again.failed) == ([], ["a", "b", "c"], {})
    assert mtimes(out) == before
    assert batch(data, out).fused == ["a", "b", "c"]
    assert not set(mtimes(out).values()) & set(before.values())


def test_resume_redoes_what_changed(quick, data, tmp_path):
    out = tmp_path / "out"
    batch(data, out)
    (out / "a" / "a_fused.nii.gz").unlink()
    assert batch(data, out, resume=True).fused == ["a"]
    (out / "b" / "b_weight.nii.gz").write_bytes(b"altered")
    assert batch(data, out, resume=True).fused == ["b"]
    write_pair(data / "c", seed=9)
    assert list(batch(data, out, resume=True).failed) == ["c"]  # of whom they are, nobody can say
    assert batch(data, out, resume=True, replace=True).fused == ["c"]
    write_pair(data / "c", seed=9, pet_unit="Bq/ml")
    assert batch(data, out, resume=True).fused == ["c"]
    (out / "c" / "c_done.json").write_text("{")
    assert batch(data, out, resume=True).fused == ["c"]
    truncate(data / "c" / "pet.nii.gz")
    assert list(batch(data, out, resume=True, replace=True).failed) == ["c"]
    assert json.loads((out / "c" / "c_done.json").read_text())["state"] == "done"  # what was good stays
    assert (table(out)[2]["state"], table(out)[2]["warnings"]) == ("failed", "")
    assert table(out)[2]["message"].endswith("copy it again. The results of an earlier run stay.")
    write_pair(data / "c", seed=9, pet_unit="Bq/ml")
    assert batch(data, out, resume=True).skipped == ["a", "b", "c"]
    assert not (out / "c" / "c_failed.json").exists() and table(out)[2]["state"] == "done"


def test_resume_redoes_a_case_whose_slices_are_said_to_be_thicker(quick, data, tmp_path):
    """The thickness of the MRI's slices changes the restored PET: the sidecar that tells it is an input."""
    out, sidecar = tmp_path / "out", data / "a" / "mri.json"
    assert batch(data, out, shard=(1, 3)).fused == ["a"]
    sidecar.write_text(json.dumps({"SliceThickness": 8.0}))
    assert batch(data, out, resume=True, shard=(1, 3)).fused == ["a"]
    sidecar.write_text(json.dumps({"SliceThickness": 8.0, "EchoTime": 0.03}))
    assert batch(data, out, resume=True, shard=(1, 3)).skipped == ["a"]


def test_a_mask_is_recorded_and_a_change_of_it_is_done_anew(quick, data, tmp_path):
    out, path = tmp_path / "out", data / "a" / "mask.nii.gz"
    labels = np.zeros((20, 24, 4), np.uint8)
    for label in (1, 2):
        labels[5:15, 5:15, 1:3] = label
        nib.save(nib.Nifti1Image(labels, np.diag([2.0, 2.0, 3.0, 1.0])), path)
        assert batch(data, out, resume=True, shard=(1, 3)).fused == ["a"]
        record = json.loads((out / "a" / "a.json").read_text())
        assert record["mask_sha256"] == sha256(path)
        assert [region["label"] for region in record["sources"]["pet"]["regions"]] == [None, label]
        assert json.loads((out / "a" / "a_done.json").read_text())["based_on"]["inputs"]["mask"] == sha256(path)
    assert batch(data, out, resume=True, shard=(1, 3)).skipped == ["a"]
    path.unlink()
    assert batch(data, out, resume=True, shard=(1, 3)).fused == ["a"]
    assert json.loads((out / "a" / "a.json").read_text())["mask_sha256"] is None


def test_resume_redoes_all_for_another_configuration_or_weights(quick, data, tmp_path):
    for name in "bc":
        (data / name / "case.json").unlink()
        for path in (data / name).iterdir():
            path.unlink()
    out = tmp_path / "out"
    batch(data, out)
    assert batch(data, out, resume=True, degradation="noise").fused == ["a"]
    assert batch(data, out, resume=True, degradation="noise", steps=2).fused == ["a"]
    assert batch(data, out, resume=True, degradation="noise", steps=2).skipped == ["a"]
    state = torch.load(bundle_dir("pet_mri_fusion") / "models" / "model.pt", weights_only=True)
    name = next(n for n, v in state.items() if v.is_floating_point())
    state[name] = state[name] * 1.01
    torch.save(state, tmp_path / "other.pt")
    overlay = tmp_path / "weights.yaml"
    overlay.write_text(yaml.safe_dump({"ckpt_path": str(tmp_path / "other.pt")}))
    assert batch(data, out, resume=True, degradation="noise", steps=2, overlays=[overlay]).fused == ["a"]
    volumes = bundle_dir("pet_mri_fusion") / "models" / "volumes.pt"
    for k, name in enumerate(("one.pt", "same.pt", "other.pt")):
        state = torch.load(volumes, weights_only=True)
        torch.save({key: v * (1.01 if k == 2 else 1) for key, v in state.items()}, tmp_path / "volumes.pt")
        (tmp_path / "volumes.pt").rename(tmp_path / name)
        overlay.write_text(yaml.safe_dump({"volume_ckpt_path": str(tmp_path / name)}))
        result = batch(data, out, resume=True, degradation="noise", steps=2, overlays=[overlay])
        assert (result.fused, result.skipped) == ((["a"], []) if k != 1 else ([], ["a"]))


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


def test_shards_share_the_cases(quick, data, tmp_path):
    parts = [batch(data, tmp_path / "out", shard=(i, 2)) for i in (1, 2)]
    assert [part.fused for part in parts] == [["a", "c"], ["b"]]
    assert [row["case"] for row in table(tmp_path / "out")] == ["a", "b", "c"]


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


def test_an_interrupt_leaves_no_half_case(quick, data, tmp_path, monkeypatch, capsys):
    write = Workflow.write

    def interrupted(self, result, folder):
        write(self, result, folder)
        if result.case == "b":
            raise KeyboardInterrupt

    monkeypatch.setattr(Workflow, "write", interrupted)
    arguments = ["batch", str(data), str(tmp_path / "out"), "participant", "--steps", "1"]
    assert cli.main(arguments) == 130
    assert "stopped" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a", "cases.tsv", "index.html"]


def test_what_a_killed_run_left_is_swept(quick, data, tmp_path):
    out = tmp_path / "out"
    for name in (".tmp-0123456789ab-a", ".old-0123456789ab-a", ".tmp-0123456789ab-x-a", ".keep-a"):
        (out / name).mkdir(parents=True)
    batch(data, out, shard=(1, 3))
    assert sorted(p.name for p in out.iterdir()) == [".keep-a", ".tmp-0123456789ab-x-a", "a", "cases.tsv", "index.html"]


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


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "medfuse", "batch", *map(str, words), "--steps", "1", "--device", "cpu"]


@pytest.fixture
def many(tmp_path) -> Path:
    """Six cases, of which one cannot be fused."""
    for seed in range(6):
        write_pair(tmp_path / "many" / f"case{seed}", seed=seed)
    truncate(tmp_path / "many" / "case3" / "mri.nii.gz")
    return tmp_path / "many"


@pytest.mark.full
def test_a_killed_run_resumed_gives_the_same_bytes(many, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert subprocess.run(command(many, whole, "participant"), capture_output=True, check=False).returncode == 1
    for done in (1, 3):  # killed twice, each time somewhere in the next case
        process = subprocess.Popen(
            command(many, broken, "participant", "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while len(list(broken.glob("case*/*_done.json"))) < done and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = {p: p.stat().st_mtime_ns for p in broken.glob("case*/*_done.json")}
    assert 3 <= len(before) < 5
    last = subprocess.run(command(many, broken, "participant", "--resume"), capture_output=True, text=True, check=False)
    assert last.returncode == 1
    assert f"{5 - len(before)} fused, {len(before)} done before, 1 failed" in last.stdout
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    same_bytes(results(broken), results(whole))
    assert [(r["case"], r["state"]) for r in table(broken)] == [(r["case"], r["state"]) for r in table(whole)]
    assert not list(broken.glob(".*"))


@pytest.mark.full
def test_shards_at_the_same_time_are_one_run(many, tmp_path):
    batch(many, tmp_path / "whole")
    shards = [command(many, tmp_path / "parts", "participant", "--shard", f"{i}/3") for i in (1, 2, 3)]
    parts = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in shards]
    assert sorted(part.wait() for part in parts) == [0, 0, 1]
    assert cli.main(["batch", str(many), str(tmp_path / "parts"), "group"]) == 0
    same_bytes(results(tmp_path / "parts"), results(tmp_path / "whole"))
    assert [(r["case"], r["state"]) for r in table(tmp_path / "parts")] == [
        (r["case"], r["state"]) for r in table(tmp_path / "whole")
    ]


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

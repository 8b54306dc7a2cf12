"""A BIDS dataset in, a BIDS derivative dataset out: names, sidecars, and what the validator says."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medfuse import cli
from medfuse.bundles import share_dir
from medfuse.io import discover
from medfuse.pipeline import BatchSummary, run_batch

RUNS = share_dir() / "configs" / "run"
VALIDATOR = Path(sys.executable).parent / "bids-validator-deno"
VOLUMES = (
    "anat/{}_desc-restored_T1w",
    "pet/{}_trc-FDG_space-T1w_desc-fused_pet",
    "pet/{}_trc-FDG_space-T1w_desc-fusedrgb_pet",
    "pet/{}_trc-FDG_space-T1w_desc-restored_pet",
    "pet/{}_trc-FDG_space-T1w_desc-weight_pet",
)


def write_session(root: Path, case: str, *, seed: int = 0, shape=(20, 24, 4)) -> None:
    """Write a tiny MRI and PET of a subject or session, `sub-01` or `sub-01_ses-a`."""
    rng = np.random.default_rng(seed)
    place = root / case.replace("_", "/")
    r = np.sqrt(sum(a**2 for a in np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")))
    for kind, name, top in (("anat", "T1w", 900.0), ("pet", "trc-FDG_pet", 7.5)):
        (place / kind).mkdir(parents=True, exist_ok=True)
        image = top * (r < 0.8) + rng.uniform(0, 0.1 * top, shape)
        affine = np.diag([2.0, 2.0, 3.0, 1.0])
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), place / kind / f"{case}_{name}.nii.gz")


@pytest.fixture
def raw(tmp_path) -> Path:
    """A subject without sessions, and one with two."""
    root = tmp_path / "raw"
    for seed, case in enumerate(("sub-01", "sub-02_ses-a", "sub-02_ses-b")):
        write_session(root, case, seed=seed)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "CANARY", "BIDSVersion": "1.10.1"}))
    (root / "trc-FDG_pet.json").write_text(json.dumps({"Units": "Bq/mL"}))
    return root


def batch(root: Path, out: Path, *overlays: str, **options) -> BatchSummary:
    chosen = [RUNS / f"{name}.yaml" for name in ("aligned", "one_step", "cpu", *overlays)]
    return run_batch(discover(root).cases, out, bids=root, overlays=chosen, **options)


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def table(out: Path) -> list[tuple[str, str]]:
    with (out / "cases.tsv").open(newline="") as file:
        return [(row["case"], row["state"]) for row in csv.DictReader(file, delimiter="\t")]


def test_every_volume_has_its_bids_name_and_a_sidecar(quick, raw, tmp_path):
    out = tmp_path / "out"
    assert batch(raw, out).fused == ["sub-01", "sub-02_ses-a", "sub-02_ses-b"]
    for case in ("sub-01", "sub-02_ses-a", "sub-02_ses-b"):
        volumes = {name.format(case) for name in VOLUMES}
        records = {f"medfuse/{case}.json", f"medfuse/{case}_done.json"}
        found = names(out / case.replace("_", "/"))
        assert found == records | {f"{v}.{end}" for v in volumes for end in ("nii.gz", "json")}
        done = json.loads((out / case.replace("_", "/") / "medfuse" / f"{case}_done.json").read_text())
        assert set(done["outputs"]) == found - {f"medfuse/{case}_done.json"}
    assert {p.name for p in out.iterdir() if p.is_file()} == {
        ".bidsignore", "README.md", "cases.tsv", "dataset_description.json", "index.html",
    }  # fmt: skip
    assert table(out) == [("sub-01", "done"), ("sub-02_ses-a", "done"), ("sub-02_ses-b", "done")]


def test_sidecars_say_what_the_volumes_are(quick, raw, tmp_path):
    batch(raw, tmp_path / "out")
    folder = tmp_path / "out" / "sub-02" / "ses-a"
    stem = "sub-02_ses-a_trc-FDG_space-T1w_desc"
    mri = "bids:raw:sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz"
    pet = "bids:raw:sub-02/ses-a/pet/sub-02_ses-a_trc-FDG_pet.nii.gz"
    restored = json.loads((folder / "pet" / f"{stem}-restored_pet.json").read_text())
    assert restored == {
        "Description": "Restored PET",
        "Sources": [pet, mri],
        "SkullStripped": False,
        "Resolution": "Grid of the MRI, 2 x 2 x 3 mm",
        "SpatialReference": mri,
        "Units": "Bq/mL",
    }
    assert json.loads((folder / "pet" / f"{stem}-fused_pet.json").read_text())["Units"] == "normalised, dimensionless"
    head = json.loads((folder / "anat" / "sub-02_ses-a_desc-restored_T1w.json").read_text())
    assert (head["Sources"], head["BiasFieldRemoved"]) == ([mri, pet], False)
    assert "SpatialReference" not in head


def test_an_mri_without_its_bias_field_says_so(quick, raw, tmp_path):
    out = tmp_path / "out"
    assert batch(raw, out, n4=True, shard=(1, 3)).fused == ["sub-01"]
    assert (
        json.loads((out / "sub-01" / "anat" / "sub-01_desc-restored_T1w.json").read_text())["BiasFieldRemoved"] is True
    )
    header = nib.load(out / "sub-01" / "anat" / "sub-01_desc-restored_T1w.nii.gz").header
    assert bytes(header["descrip"]).rstrip(b"\0") == b"a.u., bias field removed"
    sources = json.loads((out / "sub-01" / "medfuse" / "sub-01.json").read_text())["sources"]
    assert sources["mri"]["bias_field"]["method"] == "N4"
    assert "bias_field" not in sources["pet"]
    assert batch(raw, out, resume=True, n4=True, shard=(1, 3)).skipped == ["sub-01"]
    assert batch(raw, out, resume=True, shard=(1, 3)).fused == ["sub-01"]
    assert batch(raw, out, "n4", resume=True, shard=(1, 3)).fused == ["sub-01"]


def test_on_the_grid_of_the_pet_the_mri_is_in_another_space(quick, raw, tmp_path):
    batch(raw, tmp_path / "out", "pet_grid", shard=(1, 3))
    found = {p.name for p in (tmp_path / "out" / "sub-01").glob("*/*.nii.gz")}
    assert {"sub-01_space-PET_desc-restored_T1w.nii.gz", "sub-01_trc-FDG_desc-restored_pet.nii.gz"} < found
    head = json.loads((tmp_path / "out/sub-01/anat/sub-01_space-PET_desc-restored_T1w.json").read_text())
    assert head["SpatialReference"] == "bids:raw:sub-01/pet/sub-01_trc-FDG_pet.nii.gz"


def test_resume_counts_names_too(quick, raw, tmp_path):
    out = tmp_path / "out"
    batch(raw, out)
    assert batch(raw, out, resume=True).skipped == ["sub-01", "sub-02_ses-a", "sub-02_ses-b"]
    pet = raw / "sub-01" / "pet"
    (pet / "sub-01_trc-FDG_pet.nii.gz").rename(pet / "sub-01_trc-FDG_run-1_pet.nii.gz")
    again = batch(raw, out, resume=True)
    assert (again.fused, again.skipped) == (["sub-01"], ["sub-02_ses-a", "sub-02_ses-b"])
    assert len(list((out / "sub-01" / "pet").glob("*_run-1_*.nii.gz"))) == 4
    assert len(list((out / "sub-01" / "pet").iterdir())) == 8
    (out / "sub-02" / "ses-b" / "pet" / "sub-02_ses-b_trc-FDG_space-T1w_desc-fused_pet.json").write_text("{}")
    assert batch(raw, out, resume=True).fused == ["sub-02_ses-b"]


def test_a_failed_session_does_not_touch_the_other(quick, raw, tmp_path, capsys):
    out = raw / "derivatives" / "medfuse"
    (raw / "sub-02" / "ses-b" / "anat" / "sub-02_ses-b_T1w.nii.gz").write_bytes(b"")
    arguments = ["batch", str(raw), str(out), "participant", "--overlay", str(RUNS / "aligned.yaml"), "--steps", "1"]
    assert cli.main([*arguments, "--participant-label", "02", "--session-label", "a", "ses-b"]) == 1
    assert "medfuse: sub-02_ses-b failed: mri must" in capsys.readouterr().err
    assert table(out) == [("sub-02_ses-a", "done"), ("sub-02_ses-b", "failed")]
    assert names(out / "sub-02" / "ses-b") == {"medfuse/sub-02_ses-b_failed.json"}
    (out / "cases.tsv").unlink()
    assert cli.main(["batch", str(raw), str(out), "group"]) == 0
    assert "2 cases: 1 done, 1 failed" in capsys.readouterr().out
    assert "./sub-02/ses-a/medfuse/sub-02_ses-a_report.html" in (out / "index.html").read_text()


def test_nothing_of_others_is_replaced(quick, raw, tmp_path, capsys):
    arguments = ["--overlay", str(RUNS / "aligned.yaml"), "--steps", "1"]
    before = names(raw)
    assert cli.main(["batch", str(raw), str(raw), "participant", *arguments]) == 2
    assert "OUT must lie apart from the inputs" in capsys.readouterr().err
    other = tmp_path / "other"
    write_session(other, "sub-02_ses-a")
    assert cli.main(["batch", str(raw), str(other), "participant", *arguments]) == 2
    assert "The folder of sub-02_ses-a in OUT must be free" in capsys.readouterr().err
    (other / "dataset_description.json").write_text("{}")
    assert cli.main(["batch", str(raw), str(other), "participant", *arguments]) == 2
    assert "got another dataset" in capsys.readouterr().err
    manifest = tmp_path / "cases.csv"
    manifest.write_text(
        "case,mri,pet\none,raw/sub-01/anat/sub-01_T1w.nii.gz,raw/sub-01/pet/sub-01_trc-FDG_pet.nii.gz\n"
    )
    assert cli.main(["batch", str(manifest), str(raw), "participant", *arguments]) == 2
    assert "OUT must not be a BIDS dataset" in capsys.readouterr().err
    assert names(raw) == before
    assert cli.main(["batch", str(raw), str(tmp_path / "out"), "participant", "--suv", "lbm", *arguments]) == 2
    assert "or NIfTI whose sidecars tell the dose, got others for 3 cases, sub-01 among them" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.full
def test_the_validator_finds_no_error(raw):
    if not VALIDATOR.is_file():
        pytest.skip("bids-validator-deno is not installed; `make setup` does it")
    shutil.copytree(raw / "sub-01", raw / "sub-03")
    for path in sorted((raw / "sub-03").rglob("sub-01*")):
        path.rename(path.with_name(path.name.replace("sub-01", "sub-03")))
    (raw / "sub-03" / "anat" / "sub-03_T1w.nii.gz").write_bytes(b"")
    out = raw / "derivatives" / "medfuse"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "medfuse", "batch", str(raw), str(out), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def check() -> dict:
        command = [str(VALIDATOR), str(out), "--format", "json"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        report = json.loads(found.stdout)
        severe = [issue for issue in report["issues"]["issues"] if issue["severity"] == "error"]
        assert (severe, found.returncode) == ([], 0)
        codes = {issue["code"] for issue in report["issues"]["issues"]}
        assert codes <= {"TOO_FEW_AUTHORS"}  # medfuse knows no authors
        return report["summary"]

    options = ["--degradation", "noise", "--steps", "1", "--device", "cpu", "--n4"]
    chosen = ["--participant-label", "01", "sub-02", "--session-label", "a"]
    first = run("participant", *options, *chosen)
    assert first.returncode == 1  # sub-01 has no such session
    assert "1 fused, 0 done before, 1 failed" in first.stdout
    check()
    shutil.rmtree(out)
    whole = run("participant", *options)
    assert whole.returncode == 1
    assert "3 fused, 0 done before, 1 failed" in whole.stdout
    summary = check()
    assert sorted(summary["subjects"]) == ["01", "02"]
    assert sorted(summary["sessions"]) == ["a", "b"]
    assert sorted(summary["modalities"]) == ["MRI", "PET"]
    resumed = run("participant", *options, "--resume")
    assert "0 fused, 3 done before, 1 failed" in resumed.stdout
    page = (out / "index.html").read_bytes()
    (out / "index.html").unlink()
    assert run("group").returncode == 0
    assert (out / "index.html").read_bytes() == page
    assert all((out / f"sub-02/ses-a/medfuse/sub-02_ses-a_{name}").is_file() for name in ("report.html", "mosaic.png"))
    on_pet = ["--overlay", str(RUNS / "pet_grid.yaml"), str(RUNS / "aligned.yaml")]
    assert "3 fused" in run("participant", *options, *on_pet).stdout
    check()
    (out / "sub-01" / "pet" / "sub-01_stray.nii.gz").write_bytes(b"")
    with pytest.raises(AssertionError):
        check()

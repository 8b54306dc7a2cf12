"""A batch that goes on where it ended, or is shared: what is done stays, what changed is done anew."""

from __future__ import annotations

import json
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
from small_cases import batch, mtimes, results, same_bytes, table, truncate, write_cases, write_pair

from medfuse import cli
from medfuse.bundles import bundle_dir
from medfuse.pipeline import (
    Workflow,
    sha256,
)


@pytest.fixture
def data(tmp_path) -> Path:
    """Three good cases."""
    return write_cases(tmp_path / "data")


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


def test_shards_share_the_cases(quick, data, tmp_path):
    parts = [batch(data, tmp_path / "out", shard=(i, 2)) for i in (1, 2)]
    assert [part.fused for part in parts] == [["a", "c"], ["b"]]
    assert [row["case"] for row in table(tmp_path / "out")] == ["a", "b", "c"]


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
